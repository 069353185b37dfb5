"""The contents of a checkpoint, in two halves: a model that can be used alone, and its training state."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from charlm.checkpoint.environment import Environment
from charlm.config import TrainSettings
from charlm.corpus.record import CorpusRecord
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.language_model import CharacterModel
from charlm.progress import TrainingProgress

FORMAT_VERSION = 2  # raise it to rename or remove a stored name; optional keys can be added without a new version
CONFIG = "config.json"
VOCABULARY = "vocabulary.json"
WEIGHTS = "model.safetensors"
TRAINING_STATE = "training_state.safetensors"
MANIFEST = "manifest.json"
DATA_FILES = (WEIGHTS, CONFIG, VOCABULARY, TRAINING_STATE)
MAX_JSON_BYTES = 1 << 26  # a vocabulary of all of Unicode takes a quarter of it


class CheckpointConfig(BaseModel):
    """The required content of ``config.json``; later versions of charlm may have added keys."""

    model_config = ConfigDict(strict=True)

    step: int = Field(ge=0)
    settings: TrainSettings
    tied_weights: dict[str, str]
    metrics: dict[str, float]
    progress: TrainingProgress
    corpus: CorpusRecord
    environment: Environment


@dataclass
class SavedModel:
    """The half of a checkpoint that sampling, evaluation and scoring need.

    ``settings`` also describe how it reads text. ``progress``, ``corpus``, ``environment`` and ``metrics`` (those
    measured at this step) record its origin.
    """

    step: int
    settings: TrainSettings
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    progress: TrainingProgress
    corpus: CorpusRecord
    environment: Environment
    metrics: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None  # where it was read from

    def check_weights(self) -> None:
        """Raises ``CheckpointError`` if the weights are not those of a model with these settings."""
        plausible = self.settings.num_layers <= len(self.weights)
        expected = CharacterModel.shapes(len(self.vocabulary), self.settings) if plausible else {}
        found = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        if expected != found:
            different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            raise CheckpointError(f"{self.folder}: the weights do not match the settings: {', '.join(different[:3])}.")

    def build_model(self, device: torch.device) -> CharacterModel:
        """The model, ready to sample or evaluate. On a CPU, it shares these weight tensors.

        Raises ``CheckpointError`` if they do not match the settings.
        """
        self.check_weights()  # before a model of the claimed size is allocated
        return CharacterModel.from_weights(len(self.vocabulary), self.settings, self.weights).to(device).eval()


@dataclass
class Checkpoint:
    """A model, and the rest of what is needed to resume training."""

    model: SavedModel
    training_state: dict[str, Tensor]
