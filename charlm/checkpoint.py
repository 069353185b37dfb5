"""What a checkpoint holds; how one is committed and verified.

A checkpoint is a folder that is complete in itself and never changes once it has its name.
"""

import json
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from charlm import __version__, files, reading
from charlm.config import TrainSettings
from charlm.corpus.record import CorpusRecord
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CharlmError, CheckpointError, TextError, UnreadableError, VersionError
from charlm.machine import read_memory_bytes
from charlm.model.device import processor_name
from charlm.model.language_model import CharacterModel
from charlm.model.sizes import most_tensor_bytes
from charlm.progress import TrainingProgress

FORMAT_VERSION = 2  # raise it to rename or remove what is stored; adding optional keys needs no other version
FILES = ("model.safetensors", "config.json", "vocabulary.json", "training_state.safetensors")
MANIFEST = "manifest.json"
JSON_AT_MOST_BYTES = 1 << 26  # a vocabulary of all of Unicode takes a quarter of it


class ConfigFile(BaseModel):
    """What ``config.json`` must hold; a later version of charlm may have added more."""

    model_config = ConfigDict(strict=True)

    step: int = Field(ge=0)
    settings: TrainSettings
    tied_weights: dict[str, str]
    metrics: dict[str, float]
    progress: TrainingProgress
    corpus: CorpusRecord
    environment: dict[str, str | int]


@dataclass
class Checkpoint:
    """What is saved at a step. ``metrics``: those measured at this very step; ``environment``: what computed it."""

    step: int
    settings: TrainSettings
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    progress: TrainingProgress
    corpus: CorpusRecord
    metrics: dict[str, float] = field(default_factory=dict)
    training_state: dict[str, Tensor] = field(default_factory=dict)
    environment: dict[str, str | int] = field(default_factory=dict)
    folder: Path | None = None  # where it was read from

    def check_weights(self) -> None:
        """Raises ``CheckpointError`` if the weights are not those of a model with these settings."""
        plausible = self.settings.num_layers <= len(self.weights)
        expected = CharacterModel.shapes(len(self.vocabulary), self.settings) if plausible else {}
        found = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        if expected != found:
            different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            raise CheckpointError(f"{self.folder}: the weights do not match the settings: {', '.join(different[:3])}.")

    def model(self, device: torch.device) -> CharacterModel:
        """The model of this checkpoint, ready to sample or evaluate. Raises ``CheckpointError`` if they do not fit."""
        self.check_weights()  # before a model of the claimed size is made
        model = CharacterModel(len(self.vocabulary), self.settings)
        model.load_state_dict(self.weights)
        return model.to(device).eval()


def describe_process(device: torch.device, precision: str, threads: int = 0) -> dict[str, str | int]:
    """What decides the last bits of results: versions, hardware, precision and threads (0: those of this process)."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "charlm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "device": device.type,
        **gpu,
        "precision": precision,
        "threads": threads or torch.get_num_threads(),
    }


def commit(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to ``folder``, which appears whole or not at all. Raises what :func:`config_json` raises."""
    contents = {
        "model.safetensors": safetensors.torch.save(_on_cpu(checkpoint.weights)),
        "config.json": config_json(checkpoint),
        "vocabulary.json": _limited("vocabulary.json", checkpoint.vocabulary.to_json()),
        "training_state.safetensors": safetensors.torch.save(_on_cpu(checkpoint.training_state)),
    }
    manifest = {name: {"size_bytes": len(data), "sha256": files.sha256(data)} for name, data in contents.items()}
    files.commit_folder(folder, {**contents, MANIFEST: _limited(MANIFEST, manifest)})


def config_json(checkpoint: Checkpoint) -> bytes:
    """The content of ``config.json``. Raises ``TextError`` if it is too large to be read again."""
    config = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "settings": checkpoint.settings.model_dump(),
        "tied_weights": {"output_weight": "embedding.weight"} if checkpoint.settings.tie_weights else {},
        "metrics": checkpoint.metrics,
        "progress": checkpoint.progress.model_dump(),
        "corpus": checkpoint.corpus.model_dump(),
        "environment": checkpoint.environment,
    }
    return _limited("config.json", config)


def _limited(name: str, content: Any) -> bytes:
    data = to_json(content)
    if len(data) > JSON_AT_MOST_BYTES:
        what = f"{name}: too large for a checkpoint ({len(data):,} bytes; the limit is {JSON_AT_MOST_BYTES:,})."
        raise TextError(what, "Use shorter values, for example of --document-separator.")
    return data


def verified(folder: Path) -> Checkpoint:
    """Read a checkpoint of which every byte is checked.

    Raises ``VersionError`` if another version of charlm wrote it, else ``CheckpointError`` if it is damaged.
    """
    check_version(folder)
    manifest = read_json(folder / MANIFEST)
    config = _parse(_verified_bytes(folder, "config.json", manifest, JSON_AT_MOST_BYTES), folder / "config.json")
    if _version_of(config) is None:
        raise damaged(folder, "config.json has no valid format_version")
    try:
        known = ConfigFile(**config)
        for name, part in (("settings", known.settings), ("progress", known.progress)):
            # Their defaults are for new runs
            if missing := [field for field in type(part).model_fields if field not in part.model_fields_set]:
                raise damaged(folder, f"config.json: {name}.{missing[0]} is missing")
        if known.progress.steps != known.step:
            raise damaged(folder, f"config.json: progress.steps is {known.progress.steps}, step is {known.step}")
        vocabulary = _vocabulary(_verified_bytes(folder, "vocabulary.json", manifest, JSON_AT_MOST_BYTES), folder)
        tensors = {
            name: safetensors.torch.load(_verified_bytes(folder, name, manifest, most))
            for name, most in most_tensor_bytes(len(vocabulary), known.settings).items()
        }
        return Checkpoint(
            step=known.step,
            settings=known.settings,
            vocabulary=vocabulary,
            weights=tensors["model.safetensors"],
            metrics=known.metrics,
            progress=known.progress,
            corpus=known.corpus,
            training_state=tensors["training_state.safetensors"],
            environment=known.environment,
            folder=folder,
        )
    except ValidationError as error:
        raise damaged(folder, f"config.json: {first_problem(error)}") from None
    except safetensors.SafetensorError as error:
        raise damaged(folder, " ".join(str(error).split())[:200]) from None


def check_version(folder: Path) -> None:
    """Raises ``VersionError`` if another version of charlm wrote a checkpoint, damaged or not.

    What is wrong with it otherwise is for :func:`verified` to find.
    """
    try:
        data = _read(folder / "config.json")
        config = _parse(data, folder / "config.json")
    except CheckpointError:
        return
    with suppress(CheckpointError, TypeError, KeyError):
        if read_json(folder / MANIFEST)["config.json"]["sha256"] != files.sha256(data):
            return  # damaged: it may have been any version
    version, settings = _version_of(config), config.get("settings")
    if version is None:
        return
    reads = f"this version reads format {FORMAT_VERSION}"
    if version < FORMAT_VERSION:
        raise VersionError(
            f"{folder}: was written by an older version of charlm (format {version}); {reads}.",
            "Use it with the version that wrote it, or train a new model.",
        )
    newer = f"{folder}: was written by a newer version of charlm"
    if version > FORMAT_VERSION:
        raise VersionError(f"{newer} (format {version}); {reads}.", "Use a newer version of charlm.")
    unknown = settings.keys() - TrainSettings.model_fields.keys() if isinstance(settings, dict) else ()
    if unknown:
        raise VersionError(
            f"{newer}: unknown settings: {', '.join(map(reading.printable, sorted(unknown)))}.",
            "Use a newer version of charlm.",
        )


def _version_of(config: dict[str, Any]) -> int | None:
    version = config.get("format_version")
    return version if type(version) is int and version > 0 else None


def damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: damaged checkpoint: {what}.",
        f"Use another checkpoint of the run if there is one: {folder.parent}/step-N.",
    )


def first_problem(error: ValidationError) -> str:
    """The first of the fields that are missing or of the wrong kind, in a few words."""
    problem = error.errors()[0]
    name = ".".join(reading.printable(str(part)) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name}: {problem['msg'].replace('Input should', 'must').removeprefix('Value error, ')}"


def _vocabulary(data: bytes, folder: Path) -> Vocabulary:
    content = _parse(data, folder / "vocabulary.json")
    try:
        return Vocabulary.from_json(content)
    except CheckpointError as error:
        raise damaged(folder, error.message.rstrip(".")) from None


def read_json(path: Path, at_most_bytes: int = JSON_AT_MOST_BYTES) -> dict[str, Any]:
    """Raises ``CheckpointError`` if the file is missing or damaged, ``UnreadableError`` if that cannot be told."""
    return _parse(_read(path, at_most_bytes), path)


def _verified_bytes(folder: Path, name: str, manifest: dict[str, Any], most: int) -> bytes:
    """The bytes of a file, which have the size and hash of the manifest. They are read only if there are not too many.

    Raises ``CheckpointError`` if they are damaged, ``CharlmError`` if the memory cannot hold them.
    """
    entry = manifest[name] if isinstance(manifest.get(name), dict) else {}
    size_bytes = entry.get("size_bytes")
    if type(size_bytes) is not int or size_bytes > most:
        raise damaged(folder, f"{name} cannot have the size that {MANIFEST} claims")
    if size_bytes > read_memory_bytes():
        raise CharlmError(f"{folder / name}: {size_bytes:,} bytes, more than this machine has memory.")
    data = _read(folder / name, size_bytes)
    if len(data) != size_bytes or entry.get("sha256") != files.sha256(data):
        raise damaged(folder, f"{name} has the wrong size or checksum")
    return data


def _read(path: Path, most: int = JSON_AT_MOST_BYTES) -> bytes:
    try:
        return reading.read_file(path, most)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: not a checkpoint: {path.name} is missing.") from None
    except reading.UnsuitableFileError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}.") from None
    except NotADirectoryError:
        raise CheckpointError(f"{path.parent}: not a checkpoint: it is a file.") from None
    except OSError as error:
        raise UnreadableError(path, error) from None


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: damaged: invalid JSON.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object.")
    return content


def to_json(content: Any) -> bytes:
    """JSON in UTF-8; of surrogates, the escape sequences, which Python and JSON write in the same way."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
