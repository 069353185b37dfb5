"""The reference cells against their equations, written out in scalars, and against torch's own cells."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from charlm.model import cells

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))  # lanes, input, hidden


def layer(cell: str, inputs: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random ``weight_ih``, ``weight_hh`` and ``bias``, in double precision."""
    rows = cells.CELLS[cell].num_gates * hidden
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in ((rows, inputs), (rows, hidden), (rows,)))


def state_of(cell: str, lanes: int, hidden: int) -> cells.State:
    return tuple(torch.randn(lanes, hidden, dtype=torch.float64) for _ in range(cells.CELLS[cell].num_states))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def product(row: Tensor, vector: Tensor) -> float:
    return sum(a * b for a, b in zip(row.tolist(), vector.tolist(), strict=True))


def test_lstm_equations_with_gate_order_i_f_g_o() -> None:
    lanes, inputs, hidden = 2, 3, 4
    weight_ih, weight_hh, bias = layer("lstm", inputs, hidden)
    x = torch.randn(lanes, inputs, dtype=torch.float64)
    h, c = state_of("lstm", lanes, hidden)
    new_h, new_c = cells.CELLS["lstm"](x @ weight_ih.T + bias, (h, c), weight_hh)
    for lane in range(lanes):
        for unit in range(hidden):
            i, f, g, o = (
                product(weight_ih[row], x[lane]) + product(weight_hh[row], h[lane]) + bias[row].item()
                for row in (unit, hidden + unit, 2 * hidden + unit, 3 * hidden + unit)
            )
            expected_c = sigmoid(f) * c[lane, unit].item() + sigmoid(i) * math.tanh(g)
            assert new_c[lane, unit].item() == pytest.approx(expected_c, abs=1e-12)
            assert new_h[lane, unit].item() == pytest.approx(sigmoid(o) * math.tanh(expected_c), abs=1e-12)


def test_gru_equations_with_gate_order_r_z_n() -> None:
    lanes, inputs, hidden = 2, 3, 4
    weight_ih, weight_hh, bias = layer("gru", inputs, hidden)
    x = torch.randn(lanes, inputs, dtype=torch.float64)
    (h,) = state_of("gru", lanes, hidden)
    (new_h,) = cells.CELLS["gru"](x @ weight_ih.T + bias, (h,), weight_hh)
    for lane in range(lanes):
        for unit in range(hidden):
            rows = (unit, hidden + unit, 2 * hidden + unit)
            from_input = [product(weight_ih[row], x[lane]) + bias[row].item() for row in rows]
            from_hidden = [product(weight_hh[row], h[lane]) for row in rows]
            reset, update = (sigmoid(from_input[gate] + from_hidden[gate]) for gate in (0, 1))
            candidate = math.tanh(from_input[2] + reset * from_hidden[2])
            expected = (1 - update) * candidate + update * h[lane, unit].item()
            assert new_h[lane, unit].item() == pytest.approx(expected, abs=1e-12)


def test_rnn_equation() -> None:
    lanes, inputs, hidden = 2, 3, 4
    weight_ih, weight_hh, bias = layer("rnn", inputs, hidden)
    x = torch.randn(lanes, inputs, dtype=torch.float64)
    (h,) = state_of("rnn", lanes, hidden)
    (new_h,) = cells.CELLS["rnn"](x @ weight_ih.T + bias, (h,), weight_hh)
    for lane in range(lanes):
        for unit in range(hidden):
            total = product(weight_ih[unit], x[lane]) + product(weight_hh[unit], h[lane]) + bias[unit].item()
            assert new_h[lane, unit].item() == pytest.approx(math.tanh(total), abs=1e-12)


@pytest.mark.parametrize(("cell", "kind"), [("lstm", nn.LSTMCell), ("gru", nn.GRUCell), ("rnn", nn.RNNCell)])
@given(sizes=SIZES)
def test_cells_match_torch_with_zero_second_bias(
    cell: str, kind: type[nn.RNNCellBase], sizes: tuple[int, int, int]
) -> None:
    lanes, inputs, hidden = sizes
    weight_ih, weight_hh, bias = layer(cell, inputs, hidden)
    peer = kind(inputs, hidden).double()
    peer.load_state_dict(
        {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    )
    x = torch.randn(lanes, inputs, dtype=torch.float64)
    state = state_of(cell, lanes, hidden)
    ours = cells.CELLS[cell](x @ weight_ih.T + bias, state, weight_hh)
    theirs = peer(x, state) if cell == "lstm" else (peer(x, state[0]),)
    torch.testing.assert_close(ours, tuple(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", cells.CELLS)
def test_unroll_carries_state(cell: str) -> None:
    weight_ih, weight_hh, bias = layer(cell, 3, 4)
    inputs = torch.randn(5, 2, 3, dtype=torch.float64)
    state = state_of(cell, 2, 4)
    outputs, last = cells.unroll(cells.CELLS[cell], inputs, state, weight_ih, weight_hh, bias)
    assert outputs.shape == (5, 2, 4)
    for x, output in zip(inputs, outputs, strict=True):
        state = cells.CELLS[cell](x @ weight_ih.T + bias, state, weight_hh)
        torch.testing.assert_close(output, state[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(last, state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", cells.CELLS)
def test_reset_zeroes_state_in_its_lane_only(cell: str) -> None:
    weights = layer(cell, 3, 4)
    inputs = torch.randn(6, 2, 3, dtype=torch.float64)
    state = state_of(cell, 2, 4)
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[0, 0] = resets[3, 0] = resets[4, 0] = True
    outputs, last = cells.unroll(cells.CELLS[cell], inputs, state, *weights, resets)
    plain, _ = cells.unroll(cells.CELLS[cell], inputs, state, *weights)
    nothing = tuple(torch.zeros_like(part) for part in state)
    for first, end in ((0, 3), (3, 4), (4, 6)):
        alone, after = cells.unroll(cells.CELLS[cell], inputs[first:end], nothing, *weights)
        torch.testing.assert_close(outputs[first:end, 0], alone[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close([part[0] for part in last], [part[0] for part in after], rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs[:, 1], plain[:, 1], rtol=0, atol=1e-12)


def test_open_forget_and_closed_input_gate_keep_cell_state() -> None:
    hidden = 3
    weight = torch.zeros(4 * hidden, hidden)
    bias = torch.tensor([-100.0] * hidden + [100.0] * hidden + [1.0] * hidden + [100.0] * hidden)
    c = torch.randn(1, hidden)
    h, after = cells.CELLS["lstm"](bias[None], (torch.randn(1, hidden), c), weight)
    torch.testing.assert_close(after, c)
    torch.testing.assert_close(h, torch.tanh(c))
