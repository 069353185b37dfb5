"""``docs/formats.md`` has every name that is written, and no other."""

import io
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from charlm import runs
from charlm.config import ModelSettings, SettingsSource, TrainSettings
from charlm.corpus import cache
from charlm.inspection.arrays import to_npz
from charlm.inspection.traces import trace_text
from charlm.model.language_model import CharacterModel
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.conftest import ROOT, make_text

PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
SETTINGS: dict[str, Any] = {
    "hidden_size": 4,
    "embedding_size": 4,
    "num_layers": 1,
    "batch_size": 4,
    "sequence_length": 16,
    "max_steps": 2,
    "log_every": 1,
    "evaluate_every": 1,
    "sample_length": 0,
    "document_separator": "\n",
    "threads": 1,
}


def names(start: str) -> set[str]:
    """The names in the first columns of the first table after ``start``."""
    table = re.search(r"(^\|.*\n)+", PAGE[PAGE.index(f"\n{start}\n") :], flags=re.MULTILINE)
    assert table
    first_columns = [line.split(" | ")[0] for line in table[0].splitlines()[2:]]
    return {name for column in first_columns for name in re.findall(r"`([^`]+)`", column)}


def keys(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def written(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of characters, a run of bytes and their cache."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    os.utime(folder / "poem.txt", (1, 1))  # the index has no file that may have changed again since it was read
    for unit in ("character", "byte"):
        layers = [SettingsSource("test", {**SETTINGS, "unit": unit})]
        text, out = str(folder / "poem.txt"), folder / unit
        plan_training(TrainingRequest([text], layers, out=out, cache_folder=folder / "cache")).train(quiet=True)
    return folder


def test_run_folder_matches_docs(written: Path) -> None:
    patterns = {re.sub(r"\d", "?", name).rstrip("/") for name in names("## Run folder")}
    files = {path.name for path in (written / "character").iterdir()}
    assert len(files) >= 6
    assert {name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_checkpoint_folder_matches_docs(written: Path) -> None:
    for folder in runs.list_checkpoints(written / "character"):
        assert {path.name for path in folder.iterdir()} == names("## Checkpoint")


def test_corpus_json_matches_docs(written: Path) -> None:
    record = keys(written / "character" / "corpus.json")
    assert record["num_documents"] > 0
    short = keys(runs.list_checkpoints(written / "character")[0] / "config.json")["corpus"]
    assert set(short) == names("## Corpus record")
    assert set(record) - set(short) == names("## Files of a corpus")
    assert {name: record[name] for name in short} == short
    (file,) = record["files"]
    for name in (*file, *record["split"]):
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("unit", ["character", "byte"])
def test_config_json_matches_docs(written: Path, unit: str) -> None:
    config = keys(runs.list_checkpoints(written / unit)[0] / "config.json")
    assert set(config) == names("### `config.json`")
    assert set(config["progress"]) == names("`progress`:")
    assert set(config["settings"]) == set(TrainSettings.model_fields)
    assert set(config["metrics"]) == {"loss_validation"}
    for name in (*config["metrics"], *config["environment"]):
        assert f"`{name}`" in PAGE


def test_thread_changes_match_docs() -> None:
    from charlm.progress import ThreadChange

    for name in ThreadChange.model_fields:
        assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", ["vocabulary.json", "manifest.json"])
def test_vocabulary_and_manifest_match_docs(written: Path, name: str) -> None:
    content = keys(runs.list_checkpoints(written / "character")[0] / name)
    if name == "vocabulary.json":
        assert set(content) == names("### `vocabulary.json`")
    else:
        assert set(content) == names("## Checkpoint") - {name}
        assert all(f"`{key}`" in PAGE for entry in content.values() for key in entry)


def test_tensors_match_docs(written: Path) -> None:
    folder = runs.list_checkpoints(written / "character")[0]
    weights = set(safetensors.torch.load_file(folder / "model.safetensors"))
    assert {name.replace(".0.", ".N.") for name in weights} == names("### `model.safetensors`")
    state = set(safetensors.torch.load_file(folder / "training_state.safetensors"))
    for weight in weights:
        state = {name.replace(f".{weight}", ".NAME") for name in state}
    not_always = {"rng_state.cuda", "rng_state.mps", "optimizer.momentum.NAME", "trained_weight.NAME"}
    assert names("### `training_state.safetensors`") - state == not_always
    assert state <= names("### `training_state.safetensors`")


def test_tensors_of_muon_and_averaged_weights_match_docs(poem: str, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    sources = [SettingsSource("test", {**SETTINGS, "optimizer": "muon", "average_decay": 0.9})]
    plan_training(TrainingRequest([str(tmp_path / "poem.txt")], sources, out=tmp_path / "run")).train(quiet=True)
    folder = runs.list_checkpoints(tmp_path / "run")[0]
    weights = set(safetensors.torch.load_file(folder / "model.safetensors"))
    state = set(safetensors.torch.load_file(folder / "training_state.safetensors"))
    for weight in weights:
        state = {name.replace(f".{weight}", ".NAME") for name in state}
    assert {"optimizer.momentum.NAME", "trained_weight.NAME"} <= state <= names("### `training_state.safetensors`")


def test_metrics_match_docs(written: Path) -> None:
    logged = {
        name
        for unit in ("character", "byte")
        for e in runs.read_json_lines(written / unit / runs.METRICS)
        for name in e
    }
    documented = names("## `metrics.jsonl`")
    assert logged - documented == {"step"}
    assert documented - logged <= {"threads", "stopped_seconds"}  # which not every run has


def test_arrays_of_an_inspection() -> None:
    found = set()
    for cell in ("lstm", "gru", "rnn"):
        model = CharacterModel(3, ModelSettings.model_validate({"cell": cell, "embedding_size": 4, "hidden_size": 4}))
        trace = trace_text(model, make_text([0, 1, 2], 3), ["a", "b", "c"])
        found |= set(np.load(io.BytesIO(to_npz(trace, ["a", "b", "c"]))))
    assert found == names("## Arrays of `charlm inspect`")


def test_cache_matches_docs(written: Path) -> None:
    texts = list((written / "cache" / cache.TEXTS).iterdir())
    assert len(texts) == 2
    for text in texts:
        assert set(keys(text / "metadata.json")) == names("`metadata.json`:")
    documented = names("## Cache of encoded texts") - {"encoded/.building-*"}
    files = [
        path.relative_to(written / "cache").as_posix() for path in (written / "cache").rglob("*") if path.is_file()
    ]
    assert {re.sub(r"[0-9a-f]{32}", "KEY", name) for name in files} == documented
    for entry in (written / "cache" / cache.INDEX).iterdir():
        assert all(f"`{name}`" in PAGE for name in keys(entry))
