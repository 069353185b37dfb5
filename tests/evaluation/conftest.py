"""Models whose predictions are known, or hang on the past, for all tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from charlm.config import ModelSettings, RegularizationSettings
from charlm.model.language_model import CharacterModel

Make = Callable[..., CharacterModel]


def small_model(vocabulary_size: int = 7, dropout: float = 0.3, **changes: object) -> CharacterModel:
    """Weights large enough that the past matters."""
    shape = {"hidden_size": 6, "embedding_size": 4, "num_layers": 2, **changes}
    model = CharacterModel(vocabulary_size, ModelSettings(**shape), RegularizationSettings(dropout=dropout))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def constant_model(log_probabilities: torch.Tensor) -> CharacterModel:
    """A model that predicts the same distribution whatever it reads."""
    model = CharacterModel(len(log_probabilities), ModelSettings(hidden_size=4, embedding_size=4, num_layers=1))
    with torch.no_grad():
        assert model.output_weight is not None
        model.output_weight.zero_()
        model.output_bias.copy_(log_probabilities)
    return model


@pytest.fixture
def make_model() -> Make:
    return small_model


@pytest.fixture
def make_constant_model() -> Callable[[torch.Tensor], CharacterModel]:
    return constant_model
