"""Dynamic evaluation learns from the text, never from what it is yet to predict."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from charlm.config import DynamicSettings, ModelSettings
from charlm.corpus.text import Text
from charlm.errors import CharlmError
from charlm.evaluation import dynamic as module
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.loss import evaluate
from charlm.model.language_model import CharacterModel
from tests.conftest import make_text
from tests.evaluation.conftest import Make

SETTINGS = DynamicSettings(dynamic_learning_rate=0.01, dynamic_decay=0.001, dynamic_segment_length=20)


def random_text(count: int, seed: int = 0, starts: tuple[int, ...] = ()) -> Text:
    return make_text(np.random.default_rng(seed).integers(7, size=count), 7, starts)


def repeated_text(count: int) -> Text:
    return make_text(([0, 1, 2, 3, 4, 5, 6, 3, 1] * count)[:count], 7)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_repetition_lowers_dynamic_loss(make_model: Make, cell: str) -> None:
    model, text = make_model(cell=cell), repeated_text(2000)
    static = evaluate(model, text).nats_per_character
    assert evaluate_dynamically(model, text, random_text(3000, 1), SETTINGS).nats_per_character < static - 0.5


def test_dynamic_evaluation_gains_nothing_on_noise() -> None:
    # A model that guesses evenly is the best there is; one that saw what it is about to predict would be better
    model = CharacterModel(7, ModelSettings(hidden_size=6, embedding_size=4))
    with torch.no_grad():
        assert model.output_weight is not None
        model.output_weight.zero_()
    result = evaluate_dynamically(model, random_text(3000), random_text(3000, 1), SETTINGS)
    assert math.log(7) - 0.001 < result.nats_per_character < math.log(7) + 0.2


def test_update_after_last_segment_has_no_effect(make_model: Make) -> None:
    model, text = make_model(), random_text(15)
    assert evaluate_dynamically(model, text, random_text(3000, 1), SETTINGS).nats_per_character == pytest.approx(
        evaluate(model, text).nats_per_character, abs=1e-6
    )


def test_update_matches_paper(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATISTICS_LANES", 1)
    model, text, training = make_model(), random_text(60), random_text(200, 1)
    settings = DynamicSettings(dynamic_learning_rate=0.05, dynamic_decay=0.3, dynamic_segment_length=20)
    result = evaluate_dynamically(model, text, training, settings)

    model.eval()

    def segments(text: Text, count: int, update: object) -> float:
        """The loss, with an update after each segment of twenty."""
        state, total, ids = model.zero_state(1), 0.0, [7, *text[:].tolist()]
        for first in range(0, count, 20):
            read, expected = ids[first : first + 20], ids[first + 1 : first + 21]
            logits, state = model(torch.tensor(read)[:, None], state)
            state = tuple(part.detach() for part in state)
            loss = functional.cross_entropy(logits[:, 0], torch.tensor(expected))
            total += loss.item() * 20
            update(torch.autograd.grad(loss, list(model.parameters())))  # type: ignore[operator]
        return total / count

    squares: list[torch.Tensor] = [torch.zeros_like(weight) for weight in model.parameters()]
    segments(training, 200, lambda gradients: [s.add_(g**2 / 10) for s, g in zip(squares, gradients, strict=True)])
    roots = [square.sqrt() for square in squares]
    mean = torch.cat([root.flatten() for root in roots]).mean()
    trained = [weight.detach().clone() for weight in model.parameters()]

    @torch.no_grad()
    def step(gradients: tuple[torch.Tensor, ...]) -> None:
        for weight, origin, gradient, root in zip(model.parameters(), trained, gradients, roots, strict=True):
            back = 0.3 * torch.minimum(root / mean, torch.tensor(1 / 0.3)) * (origin - weight)
            weight += back - 0.05 * gradient / (root + module.EPSILON * mean)

    assert result.nats_per_character == pytest.approx(segments(text, 60, step), abs=1e-5)


def test_dynamic_evaluation_does_not_change_model(make_model: Make) -> None:
    model, text = make_model().train(), repeated_text(300)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first = evaluate_dynamically(model, text, random_text(3000, 1), SETTINGS)
    assert evaluate_dynamically(model, text, random_text(3000, 1), SETTINGS) == first
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert model.training


def test_with_tied_weights_and_documents_every_character_counts(make_model: Make) -> None:
    model = make_model(hidden_size=4, tie_weights=True)
    told: list[int] = []
    result = evaluate_dynamically(
        model, random_text(333, starts=(0, 50, 51)), random_text(900, 1, (0, 7)), SETTINGS, told.append
    )
    assert result.characters == sum(told) == 333


def test_training_text_shorter_than_segment_is_accepted(make_model: Make) -> None:
    assert evaluate_dynamically(make_model(), random_text(40), random_text(5, 1), SETTINGS).characters == 40


def test_diverged_model_error_names_learning_rate(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(model: CharacterModel, *text: object) -> list[torch.Tensor]:
        return [torch.zeros_like(weight) for weight in model.parameters()]

    monkeypatch.setattr(module, "_root_mean_squares", nothing)  # what a step is divided by
    with pytest.raises(CharlmError, match=r"Lower --dynamic-learning-rate \(now 10\)"):
        evaluate_dynamically(
            make_model(), random_text(3000), random_text(3000, 1), DynamicSettings(dynamic_learning_rate=10.0)
        )
