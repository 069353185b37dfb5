r"""The recurrent cells, gate by gate, as the literature writes them: the reference that the fast kernels are held to.

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

The matrices of a layer are stacked, one row block a gate, in the order i, f, g, o (GRU: r, z, n), as
``weight_ih (gates × hidden, input)``, ``weight_hh (gates × hidden, hidden)`` and one ``bias (gates × hidden,)``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
"""What a network remembers: ``(h, c)`` of an LSTM, ``(h,)`` of the others."""


def lstm_cell(from_input: Tensor, state: State, weight_hh: Tensor) -> State:
    """One step of the LSTM. Returns ``(h, c)``.

    ``from_input``: ``weight_ih x + bias``, ``(lane, gates × hidden)``; ``h``, ``c``: ``(lane, hidden)``.
    """
    h, c = state
    input_sum, forget_sum, candidate_sum, output_sum = (from_input + h @ weight_hh.T).chunk(4, dim=1)
    input_gate = torch.sigmoid(input_sum)
    forget_gate = torch.sigmoid(forget_sum)
    candidate = torch.tanh(candidate_sum)
    output_gate = torch.sigmoid(output_sum)
    c = forget_gate * c + input_gate * candidate
    h = output_gate * torch.tanh(c)
    return h, c


def gru_cell(from_inputs: Tensor, state: State, weight_hh: Tensor) -> State:
    """One step of the GRU. Shapes as in :func:`lstm_cell`. Returns ``(h,)``."""
    (h,) = state
    from_input = from_inputs.chunk(3, dim=1)
    from_hidden = (h @ weight_hh.T).chunk(3, dim=1)
    reset_gate = torch.sigmoid(from_input[0] + from_hidden[0])
    update_gate = torch.sigmoid(from_input[1] + from_hidden[1])
    candidate = torch.tanh(from_input[2] + reset_gate * from_hidden[2])
    return ((1 - update_gate) * candidate + update_gate * h,)


def rnn_cell(from_input: Tensor, state: State, weight_hh: Tensor) -> State:
    """One step of the simple recurrent network. Shapes as in :func:`lstm_cell`. Returns ``(h,)``."""
    (h,) = state
    return (torch.tanh(from_input + h @ weight_hh.T),)


Cell = Callable[[Tensor, State, Tensor], State]

CELLS: dict[str, Cell] = {"lstm": lstm_cell, "gru": gru_cell, "rnn": rnn_cell}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STATES = {"lstm": 2, "gru": 1, "rnn": 1}


def unroll(
    cell: Cell,
    inputs: Tensor,
    state: State,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    resets: Tensor | None = None,
) -> tuple[Tensor, State]:
    """A cell over a sequence. ``inputs``: ``(time, lane, input)``. Returns ``h`` of each step and the last state.

    ``resets``: ``(time, lane)``, true where the state is zero before the step.
    """
    outputs = []
    for step, from_input in enumerate(inputs @ weight_ih.T + bias):  # the products with the input, all in one
        if resets is not None:
            state = tuple(part.masked_fill(resets[step, :, None], 0) for part in state)
        state = cell(from_input, state, weight_hh)
        outputs.append(state[0])
    return torch.stack(outputs), state
