"""Writing a checkpoint, or a model alone."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from charlm import files
from charlm.checkpoint.contents import (
    CONFIG,
    FORMAT_VERSION,
    MANIFEST,
    MAX_JSON_BYTES,
    TRAINING_STATE,
    VOCABULARY,
    WEIGHTS,
    Checkpoint,
    SavedModel,
)
from charlm.errors import TextError


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to ``folder``, atomically. Raises what :func:`encode_config` raises."""
    _write(folder, checkpoint.model, {TRAINING_STATE: _encode_tensors(checkpoint.training_state)})


def write_model(folder: Path, model: SavedModel) -> None:
    """Write a model without training state, atomically."""
    _write(folder, model, {})


def encode_config(model: SavedModel) -> bytes:
    """The content of ``config.json``. Raises ``TextError`` if it is too large to be read again."""
    config = {
        "format_version": FORMAT_VERSION,
        "step": model.step,
        "settings": model.settings.model_dump(),
        "tied_weights": {"output_weight": "embedding.weight"} if model.settings.tie_weights else {},
        "metrics": model.metrics,
        "progress": model.progress.model_dump(),
        "corpus": model.corpus.model_dump(),
        "environment": model.environment.model_dump(),
    }
    return _limited(CONFIG, config)


def encode_json(content: Any) -> bytes:
    """JSON in UTF-8; of surrogates, the escape sequences, which Python and JSON write in the same way."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _write(folder: Path, model: SavedModel, training_state: dict[str, bytes]) -> None:
    contents = {
        WEIGHTS: _encode_tensors(model.weights),
        CONFIG: encode_config(model),
        VOCABULARY: _limited(VOCABULARY, model.vocabulary.to_json()),
        **training_state,
    }
    manifest = {name: {"size_bytes": len(data), "sha256": files.sha256(data)} for name, data in contents.items()}
    files.write_folder(folder, {**contents, MANIFEST: _limited(MANIFEST, manifest)})


def _limited(name: str, content: Any) -> bytes:
    data = encode_json(content)
    if len(data) > MAX_JSON_BYTES:
        what = f"{name}: too large for a checkpoint ({len(data):,} bytes; the limit is {MAX_JSON_BYTES:,})."
        raise TextError(what, "Use shorter values, for example of --document-separator.")
    return data


def _encode_tensors(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
