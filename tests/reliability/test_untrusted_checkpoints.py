"""A checkpoint from a stranger, or one that was tampered with, is refused; it can run nothing and fill no memory."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import files, runs
from charlm.checkpoint import loading
from charlm.checkpoint.contents import DATA_FILES, MANIFEST
from charlm.errors import CheckpointError
from tests.training.conftest import Make, make_trainer

__all__ = ["make_trainer"]  # a fixture


@pytest.fixture
def saved(make_trainer: Make) -> Path:
    """A sound checkpoint."""
    trainer = make_trainer(max_steps=2, save_every_minutes=1e-9, keep_checkpoints=9)
    trainer.train()
    return runs.list_checkpoints(trainer.run)[0]


def replace(folder: Path, name: str, data: bytes) -> None:
    """Put other bytes in place of a file, and have the manifest agree, as a stranger would."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[name] = {"size_bytes": len(data), "sha256": files.sha256(data)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    replace(folder, name, json.dumps(content).encode())


def assert_rejected(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        loading.load_checkpoint(folder).model.build_model(torch.device("cpu"))
    assert caught.value.exit_code == 3


def test_unmodified_checkpoint_is_valid(saved: Path) -> None:
    loading.load_checkpoint(saved).model.build_model(torch.device("cpu"))


class MaliciousPickle:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
def test_pickle_is_not_executed(saved: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace(saved, name, pickle.dumps(MaliciousPickle()))
    assert_rejected(saved)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
@pytest.mark.parametrize("claimed", [10**12, 2**63, 0])
def test_oversized_safetensors_header_is_rejected(saved: Path, name: str, claimed: int) -> None:
    data = (saved / name).read_bytes()
    replace(saved, name, struct.pack("<Q", claimed) + data[8:])
    assert_rejected(saved)


def test_terabyte_tensor_is_rejected(saved: Path) -> None:
    header = json.dumps(
        {"embedding.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    )
    replace(saved, "model.safetensors", struct.pack("<Q", len(header)) + header.encode())
    assert_rejected(saved)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "manifest.json"])
@pytest.mark.parametrize("text", ["[" * 10_000, '{"a":' * 10_000, "", "null", "[]", "{}", "\xff", "NaN"])
def test_malformed_or_deeply_nested_json_is_rejected(saved: Path, name: str, text: str) -> None:
    data = text.encode("latin-1")
    if name == MANIFEST:
        (saved / name).write_bytes(data)
    else:
        replace(saved, name, data)
    assert_rejected(saved)


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "embedding_size"])
def test_oversized_model_is_rejected_before_allocation(saved: Path, name: str) -> None:
    edit(saved, "config.json", lambda config: config["settings"].update({name: 10**9}))
    assert_rejected(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(format_version=3),
        lambda config: config.update(format_version="1"),
        lambda config: config.pop("step"),
        lambda config: config.update(step="../../x"),
        lambda config: config.update(step=-1),
        lambda config: config.update(metrics=[]),
        lambda config: config.update(progress=None),
        lambda config: config.update(settings=None),
        lambda config: config["settings"].update(hidden_size="64"),
    ],
)
def test_inconsistent_config_is_rejected(saved: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit(saved, "config.json", change)
    assert_rejected(saved)


@pytest.mark.parametrize("key", ["settings", "metrics", "environment"])
def test_names_in_config_are_sanitized(saved: Path, key: str) -> None:
    edit(saved, "config.json", lambda config: config[key].update({"\x1b]0;owned\x07": [None]}))
    with pytest.raises(CheckpointError, match="owned") as caught:
        loading.load_checkpoint(saved)
    assert caught.value.message.isprintable()


def test_manifest_with_foreign_files_is_rejected(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["../secret"] = manifest.pop("model.safetensors")
    (saved / MANIFEST).write_text(json.dumps(manifest))
    assert_rejected(saved)


@pytest.mark.parametrize("name", [*DATA_FILES, MANIFEST])
def test_symbolic_link_target_must_match_hash(saved: Path, name: str, tmp_path: Path) -> None:
    (saved / name).rename(tmp_path / "elsewhere")
    (saved / name).symlink_to(tmp_path / "elsewhere")
    loading.load_checkpoint(saved).model.build_model(torch.device("cpu"))
    (tmp_path / "other").write_text("secret")
    (saved / name).unlink()
    (saved / name).symlink_to(tmp_path / "other")
    assert_rejected(saved)


@pytest.mark.parametrize("name", DATA_FILES)
def test_swapped_files_of_two_checkpoints_are_rejected(saved: Path, name: str) -> None:
    (other,) = [folder for folder in runs.list_checkpoints(saved.parent) if folder != saved]
    data = (other / name).read_bytes()
    if data == (saved / name).read_bytes():  # the vocabulary is the same: nothing to notice
        assert name == "vocabulary.json"
        return
    (saved / name).write_bytes(data)
    assert_rejected(saved)
