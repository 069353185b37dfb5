"""Starting from a model that was trained on another text: characters are matched, not positions."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from charlm import runs
from charlm.checkpoint.contents import SavedModel
from charlm.config import ModelSettings, SettingsSource, SourceKind, TrainSettings, resolve
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError
from charlm.model.language_model import CharacterModel

ARCHITECTURE_SETTINGS = tuple(ModelSettings.model_fields)
NEW_ROWS_STD = 0.01  # of what is learned yet: nothing


def resolve_for_finetuning(sources: Sequence[SettingsSource], path: Path) -> tuple[TrainSettings, SavedModel]:
    """The settings of a run that starts from another's model, whose architecture comes before a preset's."""
    pretrained = runs.load_model(path)
    architecture = {name: getattr(pretrained.settings, name) for name in ARCHITECTURE_SETTINGS}
    files = [source for source in sources if source.kind is SourceKind.FILE]
    asked = [source for source in sources if source.kind is not SourceKind.FILE]
    of_model = SettingsSource(str(path), architecture, SourceKind.CHECKPOINT)
    settings = resolve(TrainSettings, [*files, of_model, *asked])
    if changed := [name for name, value in architecture.items() if getattr(settings, name) != value]:
        raise UsageError(
            f"--init-from {path}: cannot change {', '.join(f'{name} ({architecture[name]})' for name in changed)}.",
            "Remove these options, or train a new model.",
        )
    return settings, pretrained


def grown_vocabulary(origin: SavedModel, text: Vocabulary) -> Vocabulary:
    """The characters of model and text. Raises ``UsageError`` where one is of bytes and the other is not."""
    if origin.vocabulary.unit != text.unit:
        raise UsageError(
            f"{origin.folder}: a {origin.vocabulary.unit}-level model cannot be finetuned with --unit {text.unit}.",
            f"Use --unit {origin.vocabulary.unit}.",
        )
    return origin.vocabulary | text


@torch.no_grad()
def start_from(origin: SavedModel, model: CharacterModel, vocabulary: Vocabulary) -> None:
    """Give ``model`` the weights of ``origin``: each character that both know keeps its rows, wherever they are now.

    New rows start small, and new characters as improbable as the most improbable one so far: what the model predicts of
    the characters it knew stays the same but for what it spends on the new ones.
    """
    origin.check_weights()
    known, old = origin.weights, origin.vocabulary
    rows = vocabulary.ids_of(old.characters).tolist() + [vocabulary.unknown_id] * old.has_unknown
    for name, weight in model.state_dict().items():
        if name == "embedding.weight":
            _fill(weight, known[name], [*rows, vocabulary.start_id])
        elif name == "output_weight":
            _fill(weight, known[name], rows)
        elif name == "output_bias":
            weight.fill_(known[name].min())
            weight[rows] = known[name]
        else:
            weight.copy_(known[name])


def _fill(weight: Tensor, known: Tensor, rows: list[int]) -> None:
    weight.normal_(std=NEW_ROWS_STD)
    weight[rows] = known
