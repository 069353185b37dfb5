"""Stacked LSTM, GRU or RNN layers behind one interface, on the fastest kernel of the device.

The kernels are torch's own (oneDNN on a CPU, cuDNN on a GPU). The layers are called one by one, so that something can
happen between them; the kernels themselves go layer by layer too, so that costs nothing.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.backends.cudnn import rnn

from charlm.model.cells import GATES, STATES, State
from charlm.model.packing import Packing
from charlm.model.regularization import Dropout


class RecurrentLayer(nn.Module):
    """One layer: ``weight_ih (gates × hidden, input)``, ``weight_hh (gates × hidden, hidden)``, ``bias``.

    The torch kernels add two biases; the second one here is a constant zero, since two that are always added are one.
    """

    second_bias: Tensor

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        rows = GATES[cell] * hidden_size
        self.cell = cell
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))
        self.register_buffer("second_bias", torch.zeros(rows), persistent=False)
        self.reset_parameters()

    def _apply(self, *arguments: Any, **options: Any) -> Self:  # what moves a module to another device, as in nn.LSTM
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        self.lay_out()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy, which may not be laid out as this one is
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.lay_out()

    @torch.no_grad()
    def lay_out(self) -> None:
        """Put the weights side by side in memory, where cuDNN reads them: else it copies them at every call, and warns.

        Elsewhere nothing is done. ``nn.LSTM`` does the same (``torch/nn/modules/rnn.py``).
        """
        weights = self.kernel_weights()
        if not uses_cudnn(weights) or not torch._use_cudnn_rnn_flatten_weight():
            return
        name = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN_TANH"}[self.cell]
        mode = rnn.get_cudnn_mode(name)  # type: ignore[no-untyped-call]
        with torch.cuda.device_of(self.weight_ih):  # type: ignore[no-untyped-call]
            sizes = (self.weight_ih.shape[1], mode, self.hidden_size, 0, 1)  # no projection, one layer
            torch._cudnn_rnn_flatten_weight(weights, 4, *sizes, False, False)

    def kernel_weights(self) -> list[Tensor]:
        return [self.weight_ih, self.weight_hh, self.bias, self.second_bias]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Each gate's input matrix Glorot uniform (Glorot and Bengio 2010), its recurrent matrix orthogonal (Saxe et
        al. 2014), and the forget gate open at first: bias 1 (Jozefowicz et al. 2015, section 2.2).
        """
        for block in self.weight_ih.chunk(GATES[self.cell]):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hh.chunk(GATES[self.cell]):
            nn.init.orthogonal_(block)
        self.bias.zero_()
        if self.cell == "lstm":
            self.bias[self.hidden_size : 2 * self.hidden_size] = 1

    def forward(self, inputs: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """``inputs``: ``(time, lane, input)``, or packed rows with their ``lengths``; each state ``(lane, hidden)``.

        Returns the outputs, as the inputs are, and the new state.
        """
        weights = self.kernel_weights()
        initial = [part.unsqueeze(0) for part in state]
        kernel: Any = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}[self.cell]
        before = initial if self.cell == "lstm" else initial[0]
        if lengths is None:
            outputs, *after = kernel(inputs, before, weights, True, 1, 0.0, self.training, False, False)
        else:
            outputs, *after = kernel(inputs, lengths, before, weights, True, 1, 0.0, self.training, False)
        return outputs, tuple(part[0] for part in after)


def uses_cudnn(weights: list[Tensor]) -> bool:
    is_acceptable: Any = torch.backends.cudnn.is_acceptable
    return all(weight.is_cuda and is_acceptable(weight) for weight in weights)


class RecurrentStack(nn.Module):
    """Layers on one another, each one's output thinned by dropout (Zaremba et al. 2014) on its way up."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.states = STATES[cell]
        self.hidden_size = hidden_size
        input_sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(cell, size, hidden_size) for size in input_sizes)
        self.dropout = Dropout(dropout)

    def zero_state(self, lanes: int, device: torch.device) -> State:
        """A state that remembers nothing: each part ``(layer, lane, hidden)``, fp32."""
        shape = (len(self.layers), lanes, self.hidden_size)
        return tuple(torch.zeros(shape, device=device) for _ in range(self.states))

    def forward(self, inputs: Tensor, state: State, resets: NDArray[np.bool_] | None = None) -> tuple[Tensor, State]:
        """``inputs``: ``(time, lane, input)``; ``resets``: ``(time, lane)``, true where the state begins anew.

        Returns the last layer's outputs and the state after them, in fp32.
        """
        packing = None if resets is None else Packing(resets, inputs.device)
        lanes, lengths = inputs.shape[1], None
        if packing is not None:
            inputs, lengths = packing.pack(inputs), packing.lengths
        after = []
        for index, layer in enumerate(self.layers):
            layer_state = tuple(part[index] for part in state)
            outputs, layer_state = layer(inputs, packing.begin(layer_state) if packing else layer_state, lengths)
            after.append(packing.end(layer_state) if packing else layer_state)
            inputs = self.dropout(outputs)
        if packing is not None:
            inputs = packing.unpack(inputs, lanes)
        return inputs, tuple(torch.stack(part).float() for part in zip(*after, strict=True))
