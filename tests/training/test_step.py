"""One learning step, by itself: what it learns from, what it clips, what it skips."""

import copy
import math

import pytest
import torch

from charlm.config import ModelSettings, OptimizationSettings
from charlm.corpus.windows import Lanes, Window
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.training.optimizer import make_optimizer, optimizer_state_dict
from charlm.training.step import Step, take_step
from tests.conftest import make_text

LANES = Lanes(make_text([1, 2, 3, 4, 5, 6, 0] * 20, 7), batch_size=4, sequence_length=16)


@pytest.fixture
def model() -> CharacterModel:
    return CharacterModel(7, ModelSettings(hidden_size=8, embedding_size=5))


def step(model: CharacterModel, windows: list[Window], state: State, **changes: float) -> Step:
    optimizer = make_optimizer(model, OptimizationSettings())
    return take_step(model, optimizer, windows, state, **{"learning_rate": 0.01, **changes})


def weights_of(model: CharacterModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_gradient_is_mean_over_all_targets(model: CharacterModel) -> None:
    windows = [LANES.window(number) for number in (1, 2)]  # the last one of the epoch is shorter
    assert windows[0].num_targets > windows[1].num_targets
    by_hand, state = copy.deepcopy(model), model.zero_state(4)
    total = torch.zeros(())
    for window in windows:
        predictions = by_hand.predict(window, state)
        total, state = total + predictions.loss_sum(), predictions.state
    loss = total / sum(window.num_targets for window in windows)
    loss.backward()
    gradients = [weight.grad for weight in by_hand.parameters() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    taken = step(model, windows, model.zero_state(4))
    assert taken.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert taken.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    assert taken.num_targets == sum(window.num_targets for window in windows)
    torch.testing.assert_close(taken.state, state)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_step_changes_nothing(model: CharacterModel, bad: float) -> None:
    optimizer = make_optimizer(model, OptimizationSettings())
    first = take_step(model, optimizer, [LANES.window(0)], model.zero_state(4), learning_rate=0.01)
    weights = weights_of(model)
    moments = {name: moment.clone() for name, moment in optimizer_state_dict(model, optimizer).items()}
    state = tuple(part.clone() for part in first.state)
    spoiled = tuple(part.clone() for part in state)
    spoiled[0][0, 0, 0] = bad
    taken = take_step(model, optimizer, [LANES.window(1)], spoiled, learning_rate=0.01)
    assert not taken.is_finite
    assert torch.equal(taken.state[1], spoiled[1])
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(moment, moments[name]) for name, moment in optimizer_state_dict(model, optimizer).items())


def test_gradient_norm_is_before_clipping(model: CharacterModel) -> None:
    windows, state = [LANES.window(0)], model.zero_state(4)
    norms = [step(copy.deepcopy(model), windows, state, gradient_clip=clip).gradient_norm for clip in (0.0, 1e-3)]
    assert norms[0] == norms[1] > 1e-3
