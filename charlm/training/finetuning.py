"""Finetuning: start from a model that was trained on another text. Rows are matched by character, not by position."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charlm.checkpoint.contents import SavedModel
from charlm.config import ModelSettings, SettingsSource, SourceKind, TrainSettings, resolve
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError
from charlm.model.language_model import CharacterModel

ARCHITECTURE_SETTINGS = tuple(ModelSettings.model_fields)
NEW_ROWS_STD = 0.01  # of untrained rows


def resolve_for_finetuning(
    sources: Sequence[SettingsSource], pretrained: SavedModel, path: Path, automatic: Mapping[str, Any]
) -> TrainSettings:
    """The settings of a run that starts from the model at ``path``, whose architecture overrides a preset's."""
    architecture = {name: getattr(pretrained.settings, name) for name in ARCHITECTURE_SETTINGS}
    files = [source for source in sources if source.kind is SourceKind.FILE]
    explicit = [source for source in sources if source.kind is not SourceKind.FILE]
    pretrained_source = SettingsSource(str(path), architecture, SourceKind.CHECKPOINT)
    settings = resolve(TrainSettings, [*files, pretrained_source, *explicit], {**automatic, **architecture})
    if changed := [name for name, value in architecture.items() if getattr(settings, name) != value]:
        raise UsageError(
            f"--init-from {path}: cannot change {', '.join(f'{name} ({architecture[name]})' for name in changed)}.",
            "Remove these options, or train a new model.",
        )
    return settings


def merge_vocabularies(pretrained: SavedModel, text: Vocabulary) -> Vocabulary:
    """The characters of model and text together. Raises ``UsageError`` if their units differ."""
    if pretrained.vocabulary.unit != text.unit:
        raise UsageError(
            f"{pretrained.folder}: a {pretrained.vocabulary.unit}-level model cannot be finetuned "
            f"with --unit {text.unit}.",
            f"Use --unit {pretrained.vocabulary.unit}.",
        )
    return pretrained.vocabulary | text


@torch.no_grad()
def load_pretrained(pretrained: SavedModel, model: CharacterModel, vocabulary: Vocabulary) -> None:
    """Copy the weights of ``pretrained`` into ``model``: characters that both know keep their rows, wherever they are.

    New rows start small, and new characters as improbable as the least probable known one, so that predictions of known
    characters hardly change.
    """
    pretrained.check_weights()
    old_weights, old_vocabulary = pretrained.weights, pretrained.vocabulary
    rows = (
        vocabulary.lookup_ids(old_vocabulary.characters).tolist() + [vocabulary.unknown_id] * old_vocabulary.has_unknown
    )
    for name, weight in model.state_dict().items():
        if name == "embedding.weight":
            _copy_rows(weight, old_weights[name], [*rows, vocabulary.start_id])
        elif name == "output_weight":
            _copy_rows(weight, old_weights[name], rows)
        elif name == "output_bias":
            weight.fill_(old_weights[name].min())
            weight[rows] = old_weights[name]
        else:
            weight.copy_(old_weights[name])


def _copy_rows(weight: Tensor, old_rows: Tensor, rows: list[int]) -> None:
    weight.normal_(std=NEW_ROWS_STD)
    weight[rows] = old_rows
