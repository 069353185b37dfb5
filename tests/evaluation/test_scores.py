"""The scores of the characters are what the exact figure is made of."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.corpus.text import Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.evaluation.passes import evaluate
from charlm.evaluation.scores import joined, scores
from charlm.model.language_model import CharacterModel
from tests.conftest import text_of
from tests.evaluation.conftest import Make


def random_text(count: int, starts: tuple[int, ...] = ()) -> Text:
    return text_of(np.random.default_rng(0).integers(7, size=count), 7, starts)


@pytest.mark.parametrize("starts", [(), (0, 5, 300, 301)])
def test_they_add_up_to_the_exact_figure(make_model: Make, starts: tuple[int, ...]) -> None:
    model, text = make_model(), random_text(700, starts)
    found = joined(scores(model, text))
    assert len(found.ranks) == len(found.log_probabilities) == 700
    assert -found.log_probabilities.sum() == pytest.approx(evaluate(model, text).nats_per_character * 700, rel=1e-9)


def test_unknown_characters_cost_what_they_do_in_an_evaluation(make_model: Make) -> None:
    vocabulary = Vocabulary(list("abcdef"), has_unknown=True)
    text = Text(vocabulary, np.array([0, 6, 1, 6, 6, 2], np.uint8))
    model = make_model()
    found, figure = joined(scores(model, text)), evaluate(model, text)
    assert figure.unknown == 3
    assert -found.log_probabilities.mean() == pytest.approx(figure.nats_per_character, rel=1e-9)
    assert (-found.log_probabilities[[1, 3, 4]] > vocabulary.unknown_nats).all()
    assert (-found.log_probabilities[[0, 2, 5]] < vocabulary.unknown_nats).all()


def test_the_rank_counts_the_more_probable_ones(blind_model: Callable[[torch.Tensor], CharacterModel]) -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.2, 0.05, 0.03, 0.02])
    found = joined(scores(blind_model(probabilities.log()), text_of([0, 1, 2, 3, 4, 5, 6], 7)))
    assert found.ranks.tolist() == [4, 1, 2, 2, 5, 6, 7]
    assert np.exp(found.log_probabilities).tolist() == pytest.approx(probabilities.tolist(), rel=1e-5)


def test_they_come_as_they_are_computed_and_the_model_is_as_it_was(make_model: Make) -> None:
    model, told = make_model().train(), []
    stretches = scores(model, random_text(1000), told.append)
    first = next(stretches)
    assert 0 < len(first.ranks) < 1000
    rest = list(stretches)
    assert len(first.ranks) + sum(len(stretch.ranks) for stretch in rest) == sum(told) == 1000
    assert model.training
    assert not torch.is_inference_mode_enabled()
