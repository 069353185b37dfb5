"""Checkpoints of other format versions, written by hand: what charlm once wrote, and what it may write one day."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

SETTINGS_1: dict[str, Any] = {
    "unit": "character",
    "encoding": "utf-8",
    "decode_errors": "error",
    "newline": "keep",
    "normalize": "none",
    "min_count": 1,
    "document_separator": "",
    "document_per_file": False,
    "validation_fraction": "auto",
    "test_fraction": 0.0,
    "cell": "lstm",
    "embedding_size": 4,
    "hidden_size": 4,
    "num_layers": 1,
    "dropout": 0.2,
    "tie_weights": False,
    "batch_size": 32,
    "sequence_length": 64,
    "accumulation_steps": 1,
    "learning_rate": 0.004,
    "warmup_steps": 50,
    "schedule": "cosine",
    "weight_decay": 0.05,
    "beta1": 0.9,
    "beta2": 0.99,
    "gradient_clip": 1.0,
    "max_steps": 3200,
    "max_epochs": 0.0,
    "max_minutes": 0.0,
    "patience": 0,
    "seed": 1,
    "init_from": "",
    "log_every": 10,
    "evaluate_every": "auto",
    "save_every": 5.0,
    "keep": 2,
    "sample_length": 200,
    "device": "auto",
    "precision": "auto",
    "threads": 0,
}
CONFIG_TOML_1 = "".join(f"{name} = {json.dumps(value)}\n" for name, value in SETTINGS_1.items())
CORPUS_1 = {
    "name": "play",
    "names": ["play.txt"],
    "characters": 100,
    "distinct_characters": 2,
    "files": [{"path": "play.txt", "size_bytes": 100, "sha256": "0" * 64, "characters": 100}],
    "ranges": {"train": [0, 90], "validation": [90, 100], "test": [100, 100]},
}


def write_version_1(folder: Path, loss: float = 0.1) -> None:
    """A checkpoint as charlm wrote it in format 1, of a model of the characters a and b."""
    step = int(folder.name.removeprefix("step-"))
    progress = {"steps": step, "windows": step, "seconds": 1.5, "evaluate_every": 5, "best_loss": loss}
    progress |= {"evaluations_without_better": 0, "learning_rate_factor": 1.0, "times_gone_back": 0}
    progress |= {"logged_seconds": 1.0, "characters_since_log": 0}
    config = {
        "format_version": 1,
        "step": step,
        "settings": SETTINGS_1,
        "tied": {},
        "metrics": {"loss_validation": loss},
        "progress": {**progress, "corpus": CORPUS_1},
        "made_by": {"charlm": "0.1.0", "torch": "2.13.0+cpu", "threads": 2},
    }
    shapes = {
        "embedding.weight": (3, 4),
        "recurrent.layers.0.weight_ih": (16, 4),
        "recurrent.layers.0.weight_hh": (16, 4),
        "recurrent.layers.0.bias": (16,),
        "output_weight": (2, 4),
        "output_bias": (2,),
    }
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    state = {f"optimizer.exp_avg.{name}": weight.clone() for name, weight in weights.items()}
    state |= {"state.0": torch.zeros(1, 32, 4), "generator.cpu": torch.get_rng_state(), "since_log": torch.zeros(3)}
    contents = {
        "model.safetensors": safetensors.torch.save(weights),
        "config.json": json.dumps(config).encode(),
        "vocabulary.json": b'{"unit": "character", "characters": ["a", "b"], "unknown": null}',
        "training_state.safetensors": safetensors.torch.save(state),
    }
    manifest = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    write(folder, {**contents, "manifest.json": json.dumps(manifest).encode()})


def write_version_3(folder: Path) -> None:
    """A checkpoint of a format of which nothing is known but that ``config.json`` gives its version."""
    contents = {
        "config.json": b'{"format_version": 3, "architecture": {"layers": [{"size": 4}]}, "losses": [0.1]}',
        "model-00001.safetensors": safetensors.torch.save({"layers.0": torch.zeros(3)}),
        "manifest.json": b'{"files": ["config.json", "model-00001.safetensors"], "algorithm": "blake3"}',
    }
    write(folder, contents)


WRITERS = {1: write_version_1, 3: write_version_3}


def write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
