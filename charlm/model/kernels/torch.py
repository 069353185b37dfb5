"""torch's own kernels: oneDNN's LSTM on a CPU, cuDNN on a GPU.

On a CPU, torch runs the other cells as a loop of matrix products.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.backends.cudnn import rnn

from charlm.model.cells import State
from charlm.model.device import autocast
from charlm.model.kernels.interface import Arranged, Inputs, Layer, Tokens
from charlm.model.kernels.packing import Packing

OPERATORS = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}
CUDNN_MODES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN_TANH"}


class TorchKernel:
    """The layout of a window with resets is that of :class:`~charlm.model.kernels.packing.Packing`."""

    name = "torch"

    def arrange(self, inputs: Inputs, resets: NDArray[np.bool_] | None) -> Arranged:
        vectors = inputs.vectors() if isinstance(inputs, Tokens) else inputs
        if resets is None:
            return Arranged(vectors)
        packing = Packing(resets, vectors.device)
        return Arranged(packing.pack(vectors), packing, packing.rows)

    def run(
        self, layer: Layer, inputs: Inputs, state: State, layout: Packing | None, precision: str
    ) -> tuple[Tensor, State]:
        assert isinstance(inputs, Tensor), "see arrange"
        operator: Any = OPERATORS[layer.cell]
        initial = [part.unsqueeze(0) for part in (layout.gather_states(state) if layout else state)]
        states = initial if layer.cell == "lstm" else initial[0]
        weights = kernel_weights(layer)
        # bias, one layer, no dropout, training, one direction
        with autocast(inputs.device, precision):
            if layout is None:
                outputs, *after = operator(inputs, states, weights, True, 1, 0.0, layer.training, False, False)
            else:
                outputs, *after = operator(inputs, layout.lengths, states, weights, True, 1, 0.0, layer.training, False)
        new_state = tuple(part[0] for part in after)
        return outputs, layout.scatter_states(new_state) if layout else new_state

    def restore(self, outputs: Tensor, layout: Packing | None) -> Tensor:
        return outputs if layout is None else layout.unpack(outputs)


def describe_torch_kernel(cell: str, device: torch.device, precision: str) -> str:
    """Describe the library that computes a layer, for messages."""
    if device.type == "cuda":
        library = "cuDNN" if torch.backends.cudnn.enabled else "PyTorch's loop: cuDNN is off"
    elif device.type == "cpu" and cell == "lstm" and torch.backends.mkldnn.enabled:
        library = "oneDNN"
    else:
        library = f"PyTorch's loop: no library has a kernel for a {cell.upper()} on {device.type}"
    return f"torch, {precision} ({library})"


def kernel_weights(layer: Layer) -> list[Tensor]:
    """The weights as torch's operators expect them: with two biases, of which one is always zero."""
    return [layer.weight_ih, layer.weight_hh, layer.bias, layer.zero_bias]


@torch.no_grad()
def flatten_for_cudnn(layer: Layer) -> None:
    """Store the weights contiguously for cuDNN, which otherwise copies them at every call and warns.

    On other devices, nothing is done. ``nn.LSTM`` does the same (``torch/nn/modules/rnn.py``).
    """
    weights = kernel_weights(layer)
    if not uses_cudnn(weights) or not torch._use_cudnn_rnn_flatten_weight():
        return
    mode = rnn.get_cudnn_mode(CUDNN_MODES[layer.cell])  # type: ignore[no-untyped-call]
    with torch.cuda.device_of(layer.weight_ih):  # type: ignore[no-untyped-call]
        sizes = (layer.weight_ih.shape[1], mode, layer.hidden_size, 0, 1)  # no projection, one layer
        torch._cudnn_rnn_flatten_weight(weights, 4, *sizes, False, False)


def uses_cudnn(weights: list[Tensor]) -> bool:
    is_acceptable: Any = torch.backends.cudnn.is_acceptable
    return all(weight.is_cuda and is_acceptable(weight) for weight in weights)
