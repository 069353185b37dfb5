"""Models whose predictions are known, or hang on the past, for all tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from charlm.config import ModelSettings
from charlm.model.language_model import CharacterModel

Make = Callable[..., CharacterModel]


@pytest.fixture
def make_model() -> Make:
    """Makes a model with weights large enough that the past matters."""

    def make(vocabulary_size: int = 7, **changes: object) -> CharacterModel:
        shape = {"hidden_size": 6, "embedding_size": 4, "num_layers": 2, "dropout": 0.3, **changes}
        model = CharacterModel(vocabulary_size, ModelSettings(**shape))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.7)
        return model

    return make


@pytest.fixture
def blind_model() -> Callable[[torch.Tensor], CharacterModel]:
    """Makes a model that predicts the same distribution whatever it reads."""

    def make(log_probabilities: torch.Tensor) -> CharacterModel:
        model = CharacterModel(len(log_probabilities), ModelSettings(hidden_size=4, embedding_size=4, num_layers=1))
        with torch.no_grad():
            assert model.output_weight is not None
            model.output_weight.zero_()
            model.output_bias.copy_(log_probabilities)
        return model

    return make
