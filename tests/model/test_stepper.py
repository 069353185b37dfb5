"""One character at a time gives what the whole sequence gives."""

import pytest
import torch
from torch import nn

from charlm.config import ModelSettings
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import Stepper, StepState

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


def zero_state(model: CharacterModel, lanes: int) -> StepState:
    return list(zip(*(part.unbind() for part in model.zero_state(lanes)), strict=True))


def some_ids(lanes: int) -> torch.Tensor:
    ids = torch.randint(VOCABULARY, (TIME, lanes))
    ids[0] = VOCABULARY  # the start symbol
    return ids


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_stepping_equals_the_whole_sequence(cell: str, num_layers: int, lanes: int, tied: bool) -> None:
    model = model_of(cell, num_layers, tied)
    ids = some_ids(lanes)
    with torch.inference_mode():
        whole, last = model(ids, model.zero_state(lanes))
    stepper, state = Stepper(model), zero_state(model, lanes)
    for time in range(TIME):
        logits, state = stepper.step(ids[time], state)
        torch.testing.assert_close(logits, whole[time], rtol=0, atol=1e-5)
    for part, expected in zip(zip(*state, strict=True), last, strict=True):
        torch.testing.assert_close(torch.stack(part), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, TIME, 1024])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_reading_a_prompt_equals_stepping_through_it_whatever_the_chunk(cell: str, chunk: int) -> None:
    model = model_of(cell)
    ids = some_ids(2)
    stepper, stepped = Stepper(model), zero_state(model, 2)
    for time in range(TIME):
        expected, stepped = stepper.step(ids[time], stepped)
    logits, read = stepper.read(ids, chunk)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(read, stepped, rtol=0, atol=1e-5)
    ours, _ = stepper.step(ids[1], read)  # and it goes on from there
    theirs, _ = stepper.step(ids[1], stepped)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_step_leaves_the_state_it_started_from_as_it_was() -> None:
    for cell in ("lstm", "gru", "rnn"):
        model = model_of(cell)
        stepper = Stepper(model)
        _, state = stepper.read(some_ids(1))
        before = [[part.clone() for part in layer] for layer in state]
        first, _ = stepper.step(torch.tensor([3]), state)
        again, _ = stepper.step(torch.tensor([3]), state)
        assert torch.equal(first, again)
        assert all(torch.equal(a, b) for x, y in zip(before, state, strict=True) for a, b in zip(x, y, strict=True))


def test_a_stepper_leaves_the_model_trainable() -> None:
    model = model_of("lstm")
    Stepper(model).read(some_ids(1))
    logits, _ = model(some_ids(1), model.zero_state(1))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
