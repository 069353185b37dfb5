"""Figures of a model that starts cold: each window alone, and by what was read since."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.corpus.text import Text
from charlm.evaluation import context
from charlm.evaluation.loss import evaluate
from charlm.evaluation.scores import concatenate, score_characters
from charlm.model.language_model import CharacterModel
from tests.conftest import make_text
from tests.evaluation.conftest import Make


def random_text(count: int, starts: tuple[int, ...] = ()) -> Text:
    return make_text(np.random.default_rng(0).integers(7, size=count), 7, starts)


@pytest.mark.parametrize("window", [1, 7, 300, 1000])
def test_independent_windows_carry_no_state(make_model: Make, window: int) -> None:
    model, text = make_model(), random_text(1000)
    parts = [text.subrange(range(start, min(start + window, 1000))) for start in range(0, 1000, window)]
    total = sum(evaluate(model, part).nats_per_character * len(part) for part in parts)
    result = context.independent_window_loss(model, text, window)
    assert result.nats_per_character == pytest.approx(total / 1000, abs=1e-5)
    assert result.characters == 1000
    assert not result.exact


def test_window_as_long_as_text_gives_exact_loss(make_model: Make) -> None:
    model, text = make_model(), random_text(500, starts=(0, 120, 333))
    exact = evaluate(model, text).nats_per_character
    for window in (500, 10**9):
        assert context.independent_window_loss(model, text, window).nats_per_character == pytest.approx(exact, abs=1e-6)
    assert abs(context.independent_window_loss(model, text, 3).nats_per_character - exact) > 1e-3


def test_context_is_counted_from_each_start(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "CURVE_STARTS", 20)
    monkeypatch.setattr(context, "MAX_CONTEXT", 50)
    model, text = make_model(), random_text(400)
    alone = [
        concatenate(score_characters(model, text.subrange(range(start, start + 50)))).log_probabilities
        for start in np.linspace(0, 350, 20).astype(int)
    ]
    by_position = -np.stack(alone).mean(0)
    points = context.loss_by_context(model, text)
    assert [point.context_characters for point in points] == [0, 1, 2, 4, 8, 16, 32]
    for point in points:
        seen = point.context_characters
        expected = by_position[seen : 2 * seen or 1].mean()
        assert point.nats_per_character == pytest.approx(expected, abs=1e-5)


def test_document_start_resets_context(
    make_constant_model: Callable[[torch.Tensor], CharacterModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model never looks back, so a loss says which character it is of: the id is the place in a document of four
    monkeypatch.setattr(context, "MAX_CONTEXT", 16)
    log_probabilities = torch.log_softmax(torch.arange(7.0), 0)
    text = make_text([0, 1, 2, 3] * 40, 7, starts=range(0, 160, 4))
    monkeypatch.setattr(context, "_curve_starts", lambda text: np.arange(0, 144, 4))
    points = context.loss_by_context(make_constant_model(log_probabilities), text)
    nats = (-log_probabilities).tolist()
    expected = [(0, nats[0]), (1, nats[1]), (2, (nats[2] + nats[3]) / 2)]
    assert [(point.context_characters, pytest.approx(point.nats_per_character)) for point in points] == expected


def test_single_character_text_has_one_point(make_model: Make) -> None:
    model, text = make_model(), random_text(1)
    (point,) = context.loss_by_context(model, text)
    assert point.context_characters == 0
    assert point.nats_per_character == pytest.approx(evaluate(model, text).nats_per_character, abs=1e-6)


def test_progress_covers_all_characters(make_model: Make) -> None:
    text, told = random_text(700), []
    context.loss_by_context(make_model(), text, told.append)
    assert sum(told) == context.count_curve_characters(text)
