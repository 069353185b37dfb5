"""Stacked LSTM, GRU or RNN layers, run by the chosen kernel.

Layers are called separately, so that code can run between them. This costs nothing, since the kernels also work layer
by layer.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charlm.config import RegularizationSettings
from charlm.model.cells import CELLS, State
from charlm.model.kernels.choice import choose_kernel
from charlm.model.kernels.interface import Inputs, Layer, Tokens
from charlm.model.kernels.torch import flatten_for_cudnn
from charlm.model.masks import MaskKey
from charlm.model.regularization import Dropout, WeightDropout


class RecurrentLayer(nn.Module):
    """One layer's ``weight_ih (gates × hidden, input)``, ``weight_hh (gates × hidden, hidden)`` and ``bias``."""

    zero_bias: Tensor  # the second bias that torch's kernels add

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        rows = CELLS[cell].num_gates * hidden_size
        self.cell = cell
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias = nn.Parameter(torch.empty(rows))
        self.register_buffer("zero_bias", torch.zeros(rows, device="cpu"), persistent=False)  # never loaded
        if not self.bias.is_meta:
            self.reset_parameters()

    def _apply(self, *arguments: Any, **options: Any) -> Self:  # what moves a module to another device, as in nn.LSTM
        super()._apply(*arguments, **options)  # type: ignore[no-untyped-call]
        flatten_for_cudnn(self)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:  # a copy may have a different memory layout
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        flatten_for_cudnn(self)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Each gate's input matrix Glorot uniform (Glorot and Bengio 2010), its recurrent matrix orthogonal (Saxe et
        al. 2014), and the forget gate open at first: bias 1 (Jozefowicz et al. 2015, section 2.2).
        """
        gates = CELLS[self.cell].gate_names
        for block in self.weight_ih.chunk(len(gates)):
            nn.init.xavier_uniform_(block)
        for block in self.weight_hh.chunk(len(gates)):
            nn.init.orthogonal_(block)
        self.bias.zero_()
        if "forget" in gates:
            self.bias.chunk(len(gates))[gates.index("forget")].fill_(1)


@dataclass
class MaskedLayer:
    """A layer with dropped weights, as a kernel reads it."""

    cell: str
    hidden_size: int
    training: bool
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    zero_bias: Tensor


class RecurrentStack(nn.Module):
    """Stacked layers with dropout of each layer's output (Zaremba et al. 2014) and of its recurrent weights."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        regularization: RegularizationSettings,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        input_sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(cell, size, hidden_size) for size in input_sizes)
        self.dropout = Dropout(regularization.dropout, locked=regularization.locked_dropout)
        self.weight_dropout = WeightDropout(regularization.weight_dropout)
        self.kernel = "auto"  # see choose_kernel

    def zero_state(self, lanes: int, device: torch.device) -> State:
        """The zero state: each part ``(layer, lane, hidden)``, fp32."""
        shape = (len(self.layers), lanes, self.hidden_size)
        return tuple(torch.zeros(shape, device=device) for _ in range(CELLS[self.cell].num_states))

    def forward(
        self,
        inputs: Inputs,
        state: State,
        resets: NDArray[np.bool_] | None = None,
        precision: str = "fp32",
        mask_key: MaskKey | None = None,
    ) -> tuple[Tensor, State]:
        """``inputs``: ``(time, lane, input)``; ``resets``: ``(time, lane)``, true where the state is reset;
        ``mask_key``: see :class:`~charlm.model.regularization.Dropout`.

        Returns the last layer's outputs and the state after them, in fp32.
        """
        device = (inputs.ids if isinstance(inputs, Tokens) else inputs).device
        lanes = state[0].shape[1]
        kernel = choose_kernel(self.cell, self.hidden_size, lanes, device, precision, self.kernel).kernel
        arranged = kernel.arrange(inputs, resets)
        outputs, states = arranged.inputs, []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, RecurrentLayer)
            layer_state = tuple(part[index] for part in state)
            masked_layer = self.mask_weights(layer, mask_key, index)
            outputs, layer_state = kernel.run(masked_layer, outputs, layer_state, arranged.layout, precision)
            states.append(layer_state)
            outputs = self.dropout(outputs, mask_key, index, lanes, arranged.rows)
        assert isinstance(outputs, Tensor), "there is at least one layer"
        return kernel.restore(outputs, arranged.layout), tuple(
            torch.stack(part).float() for part in zip(*states, strict=True)
        )

    def mask_weights(self, layer: RecurrentLayer, key: MaskKey | None, index: int) -> Layer:
        if not self.weight_dropout.is_active:
            return layer
        weight_hh = self.weight_dropout(layer.weight_hh, key, index)
        return MaskedLayer(
            layer.cell, layer.hidden_size, layer.training, layer.weight_ih, weight_hh, layer.bias, layer.zero_bias
        )
