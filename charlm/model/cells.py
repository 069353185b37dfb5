r"""The recurrent cells, gate by gate, as the literature writes them. Fast kernels are tested against this reference.

Long short-term memory (Hochreiter and Schmidhuber 1997), with the forget gate of Gers, Schmidhuber and Cummins (1999).
At step t, from the input x_t, the short-term state h_{t-1} and the long-term state c_{t-1}:

    input gate       i_t = σ(W_ii x_t + W_hi h_{t-1} + b_i)      how much of the candidate is let in
    forget gate      f_t = σ(W_if x_t + W_hf h_{t-1} + b_f)      how much of the long-term state stays
    candidate        g_t = tanh(W_ig x_t + W_hg h_{t-1} + b_g)   what could be written
    output gate      o_t = σ(W_io x_t + W_ho h_{t-1} + b_o)      how much of the long-term state shows
    cell state       c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
    hidden state     h_t = o_t ⊙ tanh(c_t)

Gated recurrent unit (Cho et al. 2014; the reset gate acts on the product W_hn h, as in the v1 of their paper, which
is what the fast kernels compute; there is no separate bias on that product):

    reset gate       r_t = σ(W_ir x_t + W_hr h_{t-1} + b_r)
    update gate      z_t = σ(W_iz x_t + W_hz h_{t-1} + b_z)
    candidate        n_t = tanh(W_in x_t + b_n + r_t ⊙ (W_hn h_{t-1}))
    hidden state     h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

Simple recurrent network (Elman 1990):

    hidden state     h_t = tanh(W_ih x_t + W_hh h_{t-1} + b)

The matrices of a layer are stacked, one block of rows per gate, in the order i, f, g, o (GRU: r, z, n), as ``weight_ih
(gates × hidden, input)``, ``weight_hh (gates × hidden, hidden)`` and one ``bias (gates × hidden,)``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""The recurrent state: ``(h, c)`` for an LSTM, ``(h,)`` for other cells."""


class LSTMGates(NamedTuple):
    """i, f, g and o of the equations, each ``(lane, hidden)``."""

    input: Tensor
    forget: Tensor
    candidate: Tensor
    output: Tensor


class GRUGates(NamedTuple):
    """r, z and n of the equations, each ``(lane, hidden)``."""

    reset: Tensor
    update: Tensor
    candidate: Tensor


class RNNGates(NamedTuple):
    """A simple recurrent network has no gates: the candidate is the new state."""

    candidate: Tensor


Gates = LSTMGates | GRUGates | RNNGates


def lstm_gates(input_projection: Tensor, state: State, weight_hh: Tensor) -> LSTMGates:
    """The gates of one step. ``input_projection``: ``weight_ih x + bias``, ``(lane, gates × hidden)``.

    Each part of the state is ``(lane, hidden)``.
    """
    h, _ = state
    input_sum, forget_sum, candidate_sum, output_sum = (input_projection + h @ weight_hh.T).chunk(4, dim=1)
    return LSTMGates(
        input=torch.sigmoid(input_sum),
        forget=torch.sigmoid(forget_sum),
        candidate=torch.tanh(candidate_sum),
        output=torch.sigmoid(output_sum),
    )


def lstm_state(gates: LSTMGates, state: State) -> State:
    """The new ``(h, c)``."""
    _, c = state
    c = gates.forget * c + gates.input * gates.candidate
    return gates.output * torch.tanh(c), c


def gru_gates(input_projection: Tensor, state: State, weight_hh: Tensor) -> GRUGates:
    """Shapes as in :func:`lstm_gates`."""
    (h,) = state
    from_input = input_projection.chunk(3, dim=1)
    from_hidden = (h @ weight_hh.T).chunk(3, dim=1)
    reset = torch.sigmoid(from_input[0] + from_hidden[0])
    update = torch.sigmoid(from_input[1] + from_hidden[1])
    return GRUGates(reset, update, torch.tanh(from_input[2] + reset * from_hidden[2]))


def gru_state(gates: GRUGates, state: State) -> State:
    """The new ``(h,)``."""
    (h,) = state
    return ((1 - gates.update) * gates.candidate + gates.update * h,)


def rnn_gates(input_projection: Tensor, state: State, weight_hh: Tensor) -> RNNGates:
    """Shapes as in :func:`lstm_gates`."""
    (h,) = state
    return RNNGates(torch.tanh(input_projection + h @ weight_hh.T))


def rnn_state(gates: RNNGates, state: State) -> State:
    """The new ``(h,)``."""
    return (gates.candidate,)


@dataclass(frozen=True)
class Cell:
    """A type of cell: functions that compute the gates of a step, and from them the new state."""

    gate_names: tuple[str, ...]  # in the order of the stacked matrices
    num_states: int
    compute_gates: Callable[..., Gates]
    compute_state: Callable[..., State]

    @property
    def num_gates(self) -> int:
        return len(self.gate_names)

    def __call__(self, input_projection: Tensor, state: State, weight_hh: Tensor) -> State:
        """One step. Shapes as in :func:`lstm_gates`. Returns the new state."""
        return self.compute_state(self.compute_gates(input_projection, state, weight_hh), state)


CELLS = {
    "lstm": Cell(LSTMGates._fields, 2, lstm_gates, lstm_state),
    "gru": Cell(GRUGates._fields, 1, gru_gates, gru_state),
    "rnn": Cell(RNNGates._fields, 1, rnn_gates, rnn_state),
}


def iter_steps(
    cell: Cell,
    inputs: Tensor,
    state: State,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    resets: Tensor | None = None,
) -> Iterator[tuple[Gates, State]]:
    """The gates and the new state of each step of a sequence. ``inputs``: ``(time, lane, input)``.

    ``resets``: ``(time, lane)``, true where the state is zero before the step.
    """
    for step, input_projection in enumerate(inputs @ weight_ih.T + bias):  # one matrix multiplication for all inputs
        if resets is not None:
            state = tuple(part.masked_fill(resets[step, :, None], 0) for part in state)
        gates = cell.compute_gates(input_projection, state, weight_hh)
        state = cell.compute_state(gates, state)
        yield gates, state


def unroll(
    cell: Cell,
    inputs: Tensor,
    state: State,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    resets: Tensor | None = None,
) -> tuple[Tensor, State]:
    """A cell over a sequence, as in :func:`iter_steps`. Returns ``h`` of each step and the last state."""
    states = [state for _, state in iter_steps(cell, inputs, state, weight_ih, weight_hh, bias, resets)]
    return torch.stack([hidden for hidden, *_ in states]), states[-1]
