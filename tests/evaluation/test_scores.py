"""The scores of the characters are what the exact figure is made of."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.evaluation.loss import evaluate
from charlm.evaluation.scores import concatenate, score_characters
from charlm.model.language_model import CharacterModel
from tests.conftest import make_text
from tests.evaluation.conftest import Make


def random_text(count: int, starts: tuple[int, ...] = ()) -> Text:
    return make_text(np.random.default_rng(0).integers(7, size=count), 7, starts)


@pytest.mark.parametrize("starts", [(), (0, 5, 300, 301)])
def test_scores_sum_to_exact_loss(make_model: Make, starts: tuple[int, ...]) -> None:
    model, text = make_model(), random_text(700, starts)
    found = concatenate(score_characters(model, text))
    assert len(found.ranks) == len(found.log_probabilities) == 700
    assert -found.log_probabilities.sum() == pytest.approx(evaluate(model, text).nats_per_character * 700, rel=1e-9)


def test_unknown_character_scores_match_evaluation(make_model: Make) -> None:
    vocabulary = Vocabulary(list("abcdef"), has_unknown=True)
    text = Text(vocabulary, np.array([0, 6, 1, 6, 6, 2], np.uint8))
    model = make_model()
    found, figure = concatenate(score_characters(model, text)), evaluate(model, text)
    assert figure.unknown == 3
    assert -found.log_probabilities.mean() == pytest.approx(figure.nats_per_character, rel=1e-9)
    assert (-found.log_probabilities[[1, 3, 4]] > vocabulary.unknown_penalty_nats).all()
    assert (-found.log_probabilities[[0, 2, 5]] < vocabulary.unknown_penalty_nats).all()


def test_rank_counts_more_probable_characters(make_constant_model: Callable[[torch.Tensor], CharacterModel]) -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.2, 0.05, 0.03, 0.02])
    found = concatenate(score_characters(make_constant_model(probabilities.log()), make_text([0, 1, 2, 3, 4, 5, 6], 7)))
    assert found.ranks.tolist() == [4, 1, 2, 2, 5, 6, 7]
    assert np.exp(found.log_probabilities).tolist() == pytest.approx(probabilities.tolist(), rel=1e-5)


def test_scores_are_streamed_and_model_mode_is_restored(make_model: Make) -> None:
    model, told = make_model().train(), []
    stretches = score_characters(model, random_text(1000), told.append)
    first = next(stretches)
    assert 0 < len(first.ranks) < 1000
    rest = list(stretches)
    assert len(first.ranks) + sum(len(stretch.ranks) for stretch in rest) == sum(told) == 1000
    assert model.training
    assert not torch.is_inference_mode_enabled()
