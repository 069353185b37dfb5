"""What a checkpoint holds; how one is committed and verified.

A checkpoint is a folder that is complete in itself and never changes once it has its name.
"""

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from charlm import __version__, files
from charlm.config import TrainSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.language_model import CharacterModel

FORMAT_VERSION = 1
FILES = ("model.safetensors", "config.json", "vocabulary.json", "training_state.safetensors")
MANIFEST = "manifest.json"


@dataclass
class Checkpoint:
    """What is saved at a step. ``progress`` holds counters, ``metrics`` the figures known at this very step."""

    step: int
    settings: TrainSettings
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    metrics: dict[str, float] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    training_state: dict[str, Tensor] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None  # where it was read from

    def model(self, device: torch.device) -> CharacterModel:
        """The model of this checkpoint, ready to sample or evaluate. Raises ``CheckpointError`` if they do not fit."""
        model = CharacterModel(len(self.vocabulary), self.settings)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{self.folder}: the weights do not fit the settings: {reason}") from None
        return model.to(device).eval()


def describe_process(device: torch.device, precision: str) -> dict[str, Any]:
    """What makes the numbers: versions, machine, threads."""
    return {
        "charlm": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
    }


def commit(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to ``folder``, which appears whole or not at all."""
    config = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "settings": checkpoint.settings.model_dump(),
        "tied": {"output_weight": "embedding.weight"} if checkpoint.settings.tie_weights else {},
        "metrics": checkpoint.metrics,
        "progress": checkpoint.progress,
        "made_by": checkpoint.made_by,
    }
    contents = {
        "model.safetensors": safetensors.torch.save(_on_cpu(checkpoint.weights)),
        "config.json": to_json(config),
        "vocabulary.json": to_json(checkpoint.vocabulary.to_json()),
        "training_state.safetensors": safetensors.torch.save(_on_cpu(checkpoint.training_state)),
    }
    manifest = {name: {"size": len(data), "sha256": files.sha256(data)} for name, data in contents.items()}
    files.commit_folder(folder, {**contents, MANIFEST: to_json(manifest)})


def verified(folder: Path) -> Checkpoint:
    """Read a checkpoint of which every byte is checked. Raises ``CheckpointError``."""
    manifest = read_json(folder / MANIFEST)
    contents: dict[str, bytes] = {}
    for name in FILES:
        entry = manifest.get(name)
        try:
            data = (folder / name).read_bytes()
        except OSError:
            raise _damaged(folder, f"{name} is missing") from None
        if not isinstance(entry, dict) or entry.get("size") != len(data) or entry.get("sha256") != files.sha256(data):
            raise _damaged(folder, f"{name} is not what was written")
        contents[name] = data
    config = _parse(contents["config.json"], folder / "config.json")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format_version {version}; this charlm ({__version__}) reads {FORMAT_VERSION}.",
            "A newer charlm made it: pip install --upgrade charlm.",
        )
    try:
        return Checkpoint(
            step=config["step"],
            settings=TrainSettings(**config["settings"]),
            vocabulary=Vocabulary.from_json(_parse(contents["vocabulary.json"], folder / "vocabulary.json")),
            weights=safetensors.torch.load(contents["model.safetensors"]),
            metrics=config["metrics"],
            progress=config["progress"],
            training_state=safetensors.torch.load(contents["training_state.safetensors"]),
            made_by=config["made_by"],
            folder=folder,
        )
    except (KeyError, TypeError, ValidationError, safetensors.SafetensorError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {str(error).splitlines()[0]}") from None


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{folder}: a damaged checkpoint: {what}.", "Choose another: --checkpoint STEP.")


def read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no checkpoint: {path.name} is missing.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from None


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: damaged: not JSON.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: damaged: not a JSON object.")
    return content


def to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
