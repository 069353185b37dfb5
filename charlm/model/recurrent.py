"""Stacked LSTM, GRU or RNN layers behind one interface, on the fastest kernel of the device.

The kernels are torch's own (oneDNN on a CPU, cuDNN on a GPU). The layers are called one by one, so that something can
happen between them; the kernels themselves go layer by layer too, so that costs nothing.
"""

import torch
from torch import Tensor, nn

from charlm.model.cells import CELLS, GATES, STATES, State, unroll


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

    def forward(self, inputs: Tensor, state: State, resets: Tensor | None = None) -> tuple[Tensor, State]:
        """``inputs``: ``(time, lane, input)``; each state ``(lane, hidden)``; ``resets``: ``(time, lane)``.

        Returns the outputs and the new state. The kernels know no reset inside a sequence: with ``resets``, the
        reference itself goes step by step.
        """
        if resets is not None:
            return unroll(CELLS[self.cell], inputs, state, self.weight_ih, self.weight_hh, self.bias, resets)
        weights = [self.weight_ih, self.weight_hh, self.bias, self.second_bias]
        initial = [part.unsqueeze(0) for part in state]
        if self.cell == "lstm":
            outputs, h, c = torch.lstm(inputs, initial, weights, True, 1, 0.0, self.training, False, False)
            return outputs, (h[0], c[0])
        kernel = torch.gru if self.cell == "gru" else torch.rnn_tanh
        outputs, h = kernel(inputs, initial[0], weights, True, 1, 0.0, self.training, False, False)
        return outputs, (h[0],)


class RecurrentStack(nn.Module):
    """Layers on one another, each one's output thinned by dropout (Zaremba et al. 2014) on its way up."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.states = STATES[cell]
        self.hidden_size = hidden_size
        input_sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(cell, size, hidden_size) for size in input_sizes)
        self.dropout = nn.Dropout(dropout)

    def zero_state(self, lanes: int, device: torch.device) -> State:
        """A state that remembers nothing: each part ``(layer, lane, hidden)``, fp32."""
        shape = (len(self.layers), lanes, self.hidden_size)
        return tuple(torch.zeros(shape, device=device) for _ in range(self.states))

    def forward(self, inputs: Tensor, state: State, resets: Tensor | None = None) -> tuple[Tensor, State]:
        """``inputs``: ``(time, lane, input)``. Returns the last layer's outputs and the state after them, in fp32."""
        after = []
        for index, layer in enumerate(self.layers):
            outputs, layer_state = layer(inputs, tuple(part[index] for part in state), resets)
            after.append(layer_state)
            inputs = self.dropout(outputs)
        return inputs, tuple(torch.stack(part).float() for part in zip(*after, strict=True))
