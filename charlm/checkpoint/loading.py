"""Reading a checkpoint, or its model alone, and verifying every byte of what is read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from charlm import files, reading
from charlm.checkpoint.contents import (
    CONFIG,
    FORMAT_VERSION,
    MANIFEST,
    MAX_JSON_BYTES,
    TRAINING_STATE,
    VOCABULARY,
    WEIGHTS,
    Checkpoint,
    CheckpointConfig,
    SavedModel,
)
from charlm.checkpoint.tensors import read_tensors
from charlm.config import SETTINGS_ADDED_LATER, TrainSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CharlmError, CheckpointError, UnreadableError, VersionError, quote
from charlm.machine import read_memory_bytes
from charlm.model.sizes import max_tensor_bytes


def load_checkpoint(folder: Path, data: bool = True) -> Checkpoint:
    """Read a complete checkpoint, to resume training. Arguments and exceptions are those of :func:`load_model`.

    Also raises ``CheckpointError`` for a model that was saved without its training state.
    """
    check_version(folder)
    manifest = read_json(folder / MANIFEST)
    if TRAINING_STATE not in manifest and not os.path.lexists(folder / TRAINING_STATE):
        raise CheckpointError(
            f"{folder}: holds a model but no training state, so training cannot be resumed from it.",
            f"Start a new run from this model: charlm train TEXT --init-from {quote(folder)}",
        )
    model = _load_model(folder, manifest, data)
    return Checkpoint(model, _load_tensors(folder, TRAINING_STATE, manifest, model, data))


def load_model(folder: Path, data: bool = True) -> SavedModel:
    """Read the model of a checkpoint. Its training state is not read, and may be damaged or missing.

    Without ``data``, everything is verified, but tensors have only types and shapes, and take no memory. Raises
    ``VersionError`` if another version of charlm wrote it, else ``CheckpointError`` if it is damaged.
    """
    check_version(folder)
    return _load_model(folder, read_json(folder / MANIFEST), data)


def _load_model(folder: Path, manifest: dict[str, Any], data: bool) -> SavedModel:
    config = _parse(_verified_bytes(folder, CONFIG, manifest), folder / CONFIG)
    if _version_of(config) is None:
        raise damaged_error(folder, "config.json has no valid format_version")
    if isinstance(settings := config.get("settings"), dict):
        config["settings"] = SETTINGS_ADDED_LATER | settings
    try:
        known = CheckpointConfig(**config)
    except ValidationError as error:
        raise damaged_error(folder, f"config.json: {describe_first_problem(error)}") from None
    for name, part in (("settings", known.settings), ("progress", known.progress)):
        # Defaults apply to new runs only
        if missing := [field for field in type(part).model_fields if field not in part.model_fields_set]:
            raise damaged_error(folder, f"config.json: {name}.{missing[0]} is missing")
    if known.progress.steps != known.step:
        raise damaged_error(folder, f"config.json: progress.steps is {known.progress.steps}, step is {known.step}")
    model = SavedModel(
        step=known.step,
        settings=known.settings,
        vocabulary=_vocabulary(_verified_bytes(folder, VOCABULARY, manifest), folder),
        weights={},
        progress=known.progress,
        corpus=known.corpus,
        environment=known.environment,
        metrics=known.metrics,
        folder=folder,
    )
    model.weights = _load_tensors(folder, WEIGHTS, manifest, model, data)
    return model


def _load_tensors(
    folder: Path, name: str, manifest: dict[str, Any], model: SavedModel, data: bool
) -> dict[str, Tensor]:
    max_bytes = max_tensor_bytes(len(model.vocabulary), model.settings)[name]
    size_bytes, sha256 = _size_and_hash(folder, name, manifest, max_bytes)
    with _open(folder / name, size_bytes) as (file, found_bytes):
        try:
            tensors, found_sha256 = read_tensors(file, found_bytes, data)
        except ValueError:
            raise damaged_error(folder, f"{name} has no valid header") from None
    if (found_bytes, found_sha256) != (size_bytes, sha256):
        raise damaged_error(folder, f"{name} has the wrong size or checksum")
    return tensors


def check_version(folder: Path) -> None:
    """Raise ``VersionError`` if another version of charlm wrote a checkpoint, damaged or not.

    Other problems are left to :func:`load_model`.
    """
    try:
        data = _read(folder / CONFIG)
        config = _parse(data, folder / CONFIG)
    except CheckpointError:
        return
    with suppress(CheckpointError, TypeError, KeyError):
        if read_json(folder / MANIFEST)[CONFIG]["sha256"] != files.sha256(data):
            return  # damaged, so its version is not known
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


def damaged_error(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: damaged checkpoint: {what}.",
        f"Use another checkpoint of the run if there is one: {folder.parent}/step-N.",
    )


def describe_first_problem(error: ValidationError) -> str:
    """Describe the first field that is missing or of the wrong type, in a few words."""
    problem = error.errors()[0]
    name = ".".join(reading.printable(str(part)) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name}: {problem['msg'].replace('Input should', 'must').removeprefix('Value error, ')}"


def _vocabulary(data: bytes, folder: Path) -> Vocabulary:
    content = _parse(data, folder / VOCABULARY)
    try:
        return Vocabulary.from_json(content)
    except CheckpointError as error:
        raise damaged_error(folder, error.message.rstrip(".")) from None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Raises ``CheckpointError`` if the file is missing or damaged, ``UnreadableError`` if that cannot be told."""
    return _parse(_read(path, max_bytes), path)


def _verified_bytes(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    size_bytes, sha256 = _size_and_hash(folder, name, manifest, MAX_JSON_BYTES)
    data = _read(folder / name, size_bytes)
    if (len(data), files.sha256(data)) != (size_bytes, sha256):
        raise damaged_error(folder, f"{name} has the wrong size or checksum")
    return data


def _size_and_hash(folder: Path, name: str, manifest: dict[str, Any], max_bytes: int) -> tuple[int, str | None]:
    """The size and hash of a file according to the manifest, before the file is read.

    Raises ``CheckpointError`` if that size is implausible, ``CharlmError`` if it does not fit into memory.
    """
    entry = manifest[name] if isinstance(manifest.get(name), dict) else {}
    size_bytes = entry.get("size_bytes")
    if type(size_bytes) is not int or size_bytes > max_bytes:
        raise damaged_error(folder, f"{name} cannot have the size that {MANIFEST} claims")
    if size_bytes > read_memory_bytes():
        raise CharlmError(f"{folder / name}: {size_bytes:,} bytes, more than this machine has memory.")
    return size_bytes, entry.get("sha256")


def _read(path: Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    with _open(path, max_bytes) as (file, size_bytes):
        return file.read(size_bytes)


@contextmanager
def _open(path: Path, max_bytes: int) -> Iterator[tuple[BufferedReader, int]]:
    """Open a file of a checkpoint; yields it and its size, like :func:`charlm.reading.open_limited`."""
    try:
        with reading.open_limited(path, max_bytes) as opened:
            yield opened
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
