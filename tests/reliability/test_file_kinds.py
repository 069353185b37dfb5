"""Anything but a regular file of a plausible size in place of a file: named and refused at once, before it is read."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charlm import reading, runs
from charlm.checkpoint import loading
from charlm.checkpoint.contents import DATA_FILES, MANIFEST, TRAINING_STATE
from charlm.config import TrainSettings, read_toml
from charlm.corpus import streams
from charlm.errors import CharlmError, CheckpointError, UsageError
from charlm.model.language_model import CharacterModel
from charlm.model.sizes import count_parameters, max_tensor_bytes
from charlm.run_corpus import CorpusFile
from tests.reliability.test_untrusted_checkpoints import replace, saved
from tests.training.conftest import make_trainer

__all__ = ["make_trainer", "saved"]  # fixtures

pytestmark = pytest.mark.timeout(60)  # a test that hangs has failed
HUGE = 200 << 30
each_file = pytest.mark.parametrize("name", [*DATA_FILES, MANIFEST])


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 107 bytes
        try:
            end.bind(path.name)
        finally:
            os.chdir(here)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("gone")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


Put = Callable[[Path], None]
KINDS: tuple[Put, ...] = (make_fifo, make_socket, link_to_device, Path.mkdir, link_to_nothing, link_to_itself)
each_kind = pytest.mark.parametrize("put", [*KINDS, make_huge], ids=lambda put: put.__name__)


def swap(path: Path, put: Put) -> Path:
    path.unlink(missing_ok=True)
    put(path)
    return path


@each_file
@each_kind
def test_irregular_file_in_checkpoint_is_rejected(saved: Path, name: str, put: Put) -> None:
    swap(saved / name, put)
    with pytest.raises(CheckpointError) as caught:
        loading.load_checkpoint(saved)
    assert name in caught.value.message
    with pytest.raises(CheckpointError):
        runs.load_checkpoint(saved)
    if name == TRAINING_STATE:
        assert runs.load_model(saved).weights
        return
    for read in (loading.load_model, runs.load_model):
        with pytest.raises(CheckpointError):
            read(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
def test_size_implausible_for_settings_is_rejected(saved: Path, name: str) -> None:
    swap(saved / name, make_huge)
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest[name]["size_bytes"] = HUGE
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=name):
        loading.load_checkpoint(saved)


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "batch_size", "embedding_size"])
def test_size_beyond_memory_is_rejected(saved: Path, name: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["settings"][name] = 10**9
    replace(saved, "config.json", json.dumps(config).encode())
    for file in ("model.safetensors", "training_state.safetensors"):
        swap(saved / file, make_huge)
    manifest = json.loads((saved / MANIFEST).read_text())
    for file in ("model.safetensors", "training_state.safetensors"):
        manifest[file]["size_bytes"] = HUGE
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CharlmError, match=r"model\.safetensors"):
        loading.load_checkpoint(saved)


def test_oversized_header_is_rejected_before_data_is_read(saved: Path) -> None:
    data = (saved / "model.safetensors").read_bytes()
    replace(saved, "model.safetensors", struct.pack("<Q", len(data)) + data[8:])
    with pytest.raises(CheckpointError):
        loading.load_checkpoint(saved)


@pytest.mark.parametrize("num_layers", [1, 3, 1000])
@pytest.mark.parametrize("size", [1, 512])
def test_written_sizes_are_plausible(num_layers: int, size: int) -> None:
    settings = TrainSettings(num_layers=num_layers, hidden_size=size, embedding_size=size)
    shapes = CharacterModel.shapes(5, settings)
    parameters = sum(int(torch.Size(shape).numel()) for shape in shapes.values())
    assert count_parameters(5, settings) == parameters
    header = sum(len(f"optimizer.exp_avg_sq.{name}") + 80 for name in shapes)
    most = max_tensor_bytes(5, settings)
    assert most["model.safetensors"] > 4 * parameters + header
    assert most["training_state.safetensors"] > 3 * (4 * parameters + header)


@each_file
def test_symbolic_link_to_regular_file_is_read(saved: Path, name: str, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in saved.iterdir():
        path.rename(blobs / f"sha-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"sha-{path.name}")
    read = runs.load_model(snapshot)
    assert read.step >= 1
    read.build_model(torch.device("cpu"))
    blob = blobs / f"sha-{name}"
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    with pytest.raises(CheckpointError):
        runs.load_checkpoint(snapshot)
    if name != TRAINING_STATE:
        with pytest.raises(CheckpointError):
            runs.load_model(snapshot)


def test_linked_checkpoint_folder_is_pruned_as_link(saved: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    saved.rename(elsewhere)
    saved.symlink_to(elsewhere)
    assert runs.load_model(saved.parent, "best").step
    runs.files.remove_folder(saved)
    assert not saved.exists()
    assert (elsewhere / MANIFEST).is_file()
    assert not [path for path in saved.parent.iterdir() if runs.files.TEMPORARY_INFIX in path.name]


@each_kind
def test_irregular_config_toml_is_rejected(saved: Path, put: Put) -> None:
    path = swap(saved.parent / "config.toml", put)
    assert not runs.has_settings(saved.parent)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert "config.toml" in caught.value.message


@pytest.mark.parametrize("name", ["corpus.json", "metrics.jsonl"])
@each_kind
def test_irregular_run_file_is_rejected(saved: Path, name: str, put: Put) -> None:
    path = swap(saved.parent / name, put)
    with pytest.raises(CheckpointError) as caught:
        CorpusFile.read(saved.parent) if name == "corpus.json" else list(runs.read_json_lines(path))
    assert name in caught.value.message


@pytest.mark.parametrize("put", KINDS[:3], ids=lambda put: put.__name__)
def test_irregular_text_file_is_rejected(tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIPE_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "text.txt"
    put(path)
    with pytest.raises(UsageError) as caught, streams.open_source(path):
        pass
    assert str(path) in caught.value.message


def test_named_pipe_with_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    text = b"to be or not to be\n" * 9_000  # more than a pipe holds
    process = os.fork()
    if process == 0:
        with path.open("wb") as pipe:
            pipe.write(text)
        os._exit(0)
    found = b""
    with streams.open_source(path) as (stream, _):
        while data := stream.read(1 << 16):
            found += data
    os.waitpid(process, 0)
    assert found == text


def test_kind_is_checked_on_the_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pipe = tmp_path / "file", tmp_path / "pipe"
    path.write_bytes(b"regular")
    os.mkfifo(pipe)
    found = path.stat()
    monkeypatch.setattr(Path, "stat", lambda self, **options: found)  # it was a file a moment ago
    with pytest.raises(reading.UnsuitableFileError, match="pipe"):
        reading.read_file(pipe, 100)
