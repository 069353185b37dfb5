"""One character at a time gives what the whole sequence gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from charlm.config import ModelSettings
from charlm.model import matmul
from charlm.model.language_model import CharacterModel
from charlm.model.matmul import int7_matmul, int8_matmul, is_supported
from charlm.model.stepper import Stepper, prefill

VOCABULARY, TIME = 13, 20


def model_of(cell: str, num_layers: int = 2, tied: bool = False) -> CharacterModel:
    settings = ModelSettings(
        cell=cell, num_layers=num_layers, hidden_size=16, embedding_size=16 if tied else 8, tie_weights=tied
    )
    model = CharacterModel(VOCABULARY, settings).eval()
    for layer in model.recurrent.layers:
        nn.init.normal_(layer.bias)
    nn.init.normal_(model.output_bias)
    return model


def some_ids(lanes: int) -> torch.Tensor:
    ids = torch.randint(VOCABULARY, (TIME, lanes))
    ids[0] = VOCABULARY  # the start symbol
    return ids


def step_through(model: CharacterModel, ids: torch.Tensor, precision: str = "fp32") -> tuple[torch.Tensor, Stepper]:
    """The logits of every step, ``(time, lane, vocabulary)``, from a state of zero."""
    stepper = Stepper(model, ids.shape[1], precision)
    stepper.set_state(model.zero_state(1))
    return torch.from_numpy(np.stack([stepper.step(row).copy() for row in ids.numpy()])), stepper


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_stepping_equals_full_sequence(cell: str, num_layers: int, lanes: int, tied: bool) -> None:
    model = model_of(cell, num_layers, tied)
    ids = some_ids(lanes)
    with torch.inference_mode():
        whole, last = model(ids, model.zero_state(lanes))
    logits, stepper = step_through(model, ids)
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)
    for part, expected in zip(zip(*(layer.state for layer in stepper.layers), strict=True), last, strict=True):
        torch.testing.assert_close(torch.stack(part), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, TIME, 1024])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_prefill_equals_stepping_for_any_chunk(cell: str, chunk: int) -> None:
    model = model_of(cell)
    ids = some_ids(2)
    by_steps, stepper = step_through(model, ids)
    goes_on = stepper.step(ids[1].numpy()).copy()
    logits, state = prefill(model, ids, chunk)
    torch.testing.assert_close(torch.from_numpy(logits), by_steps[-1], rtol=0, atol=1e-5)
    stepper.set_state(state)
    np.testing.assert_allclose(stepper.step(ids[1].numpy()), goes_on, rtol=0, atol=1e-5)


def test_prefill_computes_logits_of_last_step_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, sizes = model_of("lstm"), some_ids(2), []
    linear = functional.linear

    def noted(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        outputs = linear(inputs, weight, bias)
        if weight.shape[0] == VOCABULARY:
            sizes.append(outputs.numel())
        return outputs

    monkeypatch.setattr(functional, "linear", noted)
    prefill(model, ids, chunk=7)
    assert sizes == [2 * VOCABULARY]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_set_state_is_repeatable_and_keeps_its_argument(cell: str) -> None:
    model = model_of(cell)
    stepper = Stepper(model, 3)
    _, state = prefill(model, some_ids(1))
    before = [part.clone() for part in state]
    runs = []
    for _ in range(2):
        stepper.set_state(state)
        runs.append([stepper.step(np.array([id_, id_, id_])).copy() for id_ in (3, 1, 4)])
    assert np.array_equal(*runs)
    assert np.array_equal(runs[0][2][0], runs[0][2][2])  # a state of one lane is that of all
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_one_lane_can_be_reset_while_others_continue(cell: str) -> None:
    model = model_of(cell)
    ids = some_ids(2)
    expected, _ = step_through(model, ids[:, 1:])
    fresh, _ = step_through(model, ids[10:, :1])
    stepper = Stepper(model, 2, "fp32")
    stepper.set_state(model.zero_state(2))
    for time, row in enumerate(ids.numpy()):
        if time == 10:
            for layer in stepper.layers:
                for part in layer.state:
                    part[0] = 0
                layer.update_projections()
        logits = torch.from_numpy(stepper.step(row))
        torch.testing.assert_close(logits[1], expected[time, 0], rtol=0, atol=1e-5)
        if time >= 10:
            torch.testing.assert_close(logits[0], fresh[time - 10, 0], rtol=0, atol=1e-5)


@pytest.mark.skipif(
    not (is_supported(int8_matmul) or is_supported(int7_matmul)), reason="this machine or torch has no such product"
)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_int8_is_close_to_fp32_with_independent_lanes(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "INT8_MIN_WEIGHTS", 1)
    model = model_of(cell)
    ids = some_ids(16)
    exact, _ = step_through(model, ids)
    rounded, _ = step_through(model, ids, "auto")
    difference = (torch.log_softmax(exact, -1) - torch.log_softmax(rounded, -1)).abs()
    assert 0 < difference.mean() < 0.02
    for lanes in (1, 4):
        assert torch.equal(step_through(model, ids[:, :lanes], "auto")[0], rounded[:, :lanes])


def test_stepper_leaves_model_trainable() -> None:
    model = model_of("lstm")
    stepper = Stepper(model)
    prefill(model, some_ids(1))
    stepper.step(np.array([1]))
    logits, _ = model(some_ids(1), model.zero_state(1))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
