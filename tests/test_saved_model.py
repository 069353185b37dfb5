"""The model half of a checkpoint: it is read, verified and used without the state of its training."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import charlm
from charlm import reading, runs
from charlm.checkpoint import loading, writing
from charlm.config import TrainSettings
from charlm.errors import CharlmError, CharlmWarning, CheckpointError, UsageError
from charlm.model import recurrent
from charlm.summary import summarize
from tests.commands.conftest import Cli, cli, trained
from tests.test_checkpoint import SETTINGS, TIED, bits, full, make_model
from tests.test_runs import add, run, step

__all__ = ["cli", "run", "trained"]  # fixtures

TRAINING_STATE = "training_state.safetensors"
SAVED = full()
CPU = torch.device("cpu")
each_cell = pytest.mark.parametrize(
    "settings", [SETTINGS, TIED, *(SETTINGS.model_copy(update={"cell": cell}) for cell in ("gru", "rnn"))]
)


def damage(folder: Path) -> None:
    path = folder / TRAINING_STATE
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    writing.write_checkpoint(tmp_path / "step-00000012", SAVED)
    return tmp_path / "step-00000012"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A model that was saved alone."""
    writing.write_model(tmp_path / "alone", SAVED.model)
    return tmp_path / "alone"


# A model saved alone


def test_saved_model_has_all_files_but_training_state(alone: Path, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {path.name for path in alone.iterdir()} == {TRAINING_STATE}
    for name in ("config.json", "vocabulary.json", "model.safetensors"):
        assert (alone / name).read_bytes() == (folder / name).read_bytes()
    manifests = [json.loads((each / "manifest.json").read_bytes()) for each in (folder, alone)]
    del manifests[0][TRAINING_STATE]
    assert manifests[0] == manifests[1]


def test_saved_model_roundtrip_is_bit_identical(alone: Path) -> None:
    saved, read = SAVED.model, loading.load_model(alone)
    assert bits(read.weights) == bits(saved.weights)
    for name in ("step", "settings", "vocabulary", "metrics", "progress", "corpus", "environment"):
        assert getattr(read, name) == getattr(saved, name), name
    assert read.folder == alone


def test_resume_from_saved_model_is_rejected(alone: Path) -> None:
    for read in (loading.load_checkpoint, runs.load_checkpoint):
        with pytest.raises(CheckpointError, match="no training state") as raised:
            read(alone)
        lines = str(raised.value).splitlines()
        assert len(lines) == 2
        assert str(alone) in lines[0]
        assert f"--init-from {alone}" in lines[1]
        assert raised.value.exit_code == 3


def test_missing_training_state_in_manifest_is_damage(folder: Path) -> None:
    (folder / TRAINING_STATE).unlink()
    with pytest.raises(CheckpointError, match=rf"{TRAINING_STATE} is missing"):
        loading.load_checkpoint(folder)


def test_training_state_absent_from_manifest_is_damage(folder: Path, alone: Path) -> None:
    (folder / TRAINING_STATE).rename(alone / TRAINING_STATE)
    with pytest.raises(CheckpointError, match=TRAINING_STATE):
        loading.load_checkpoint(alone)


# Only what is needed is read


def test_load_model_does_not_open_training_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_regular = reading.open_regular
    monkeypatch.setattr(reading, "open_regular", lambda path: (opened.append(path.name), open_regular(path))[1])
    loading.load_model(folder)
    assert set(opened) == {"config.json", "vocabulary.json", "model.safetensors", "manifest.json"}
    assert opened.count("model.safetensors") == 1
    loading.load_checkpoint(folder)
    assert TRAINING_STATE in opened


@pytest.mark.parametrize("spoil", [damage, lambda folder: (folder / TRAINING_STATE).unlink()], ids=["damaged", "gone"])
def test_damaged_training_state_affects_only_resume(run: Path, spoil: Any) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.75)
    spoil(step(run, 2))
    spoil(step(run, 3))
    with warnings.catch_warnings(action="error"):
        assert runs.load_model(run, "best").step == 2
        assert runs.load_model(run, "latest").step == 3
        assert runs.load_model(step(run, 3)).step == 3
        assert summarize(run).step == 2
    with pytest.warns(CharlmWarning, match=TRAINING_STATE):
        assert runs.load_checkpoint(run).model.step == 1
    with pytest.warns(CharlmWarning, match=TRAINING_STATE):
        assert runs.load_checkpoint(run, "best").model.step == 1
    with pytest.raises(CheckpointError, match=TRAINING_STATE):
        runs.load_checkpoint(step(run, 3))


def test_checkpoint_with_damaged_training_state_is_replaced_on_save(run: Path) -> None:
    saved = full()
    runs.save_checkpoint(run, saved, keep=0)
    damage(step(run, 12))
    runs.save_checkpoint(run, saved, keep=0)
    assert bits(loading.load_checkpoint(step(run, 12)).training_state) == bits(saved.training_state)


def test_later_checkpoint_with_damaged_training_state_is_set_aside(run: Path) -> None:
    add(run, s10=1.5, s20=1.25)
    damage(step(run, 20))
    runs.truncate_after(run, 10)
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00000010", "step-00000020.damaged"]


def test_load_without_data_verifies_and_allocates_nothing(folder: Path) -> None:
    checkpoint, shapes = loading.load_checkpoint(folder), loading.load_checkpoint(folder, data=False)
    for read, empty in (
        (checkpoint.model.weights, shapes.model.weights),
        (checkpoint.training_state, shapes.training_state),
    ):
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in read.items()} == {
            name: (tensor.shape, tensor.dtype) for name, tensor in empty.items()
        }
        assert all(tensor.is_meta for tensor in empty.values())
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        loading.load_model(folder, data=False)


def test_info_reads_no_weights_into_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run, s10=1.5)
    kept: list[bool] = []
    load_model = loading.load_model

    def watched(folder: Path, data: bool = True) -> Any:
        kept.append(data)
        return load_model(folder, data)

    monkeypatch.setattr(loading, "load_model", watched)
    assert summarize(run).parameters["total"] == 184
    assert kept == [False]


# Building a model from its weights


@each_cell
def test_build_model_runs_no_initializer(
    alone: Path, tmp_path: Path, settings: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing.write_model(tmp_path / "model", make_model(settings))
    before = torch.get_rng_state()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("an initializer ran")

    with monkeypatch.context() as patch:
        for name in ("normal_", "uniform_", "orthogonal_", "xavier_uniform_", "zeros_", "ones_"):
            patch.setattr(torch.nn.init, name, refuse)
        patch.setattr(torch.linalg, "qr", refuse)
        patch.setattr(recurrent.RecurrentLayer, "reset_parameters", refuse)
        loading.load_model(tmp_path / "model").build_model(CPU)
    assert torch.equal(torch.get_rng_state(), before)


@each_cell
def test_build_model_shares_weights(settings: TrainSettings, tmp_path: Path) -> None:
    writing.write_model(tmp_path / "model", make_model(settings))
    saved = loading.load_model(tmp_path / "model")
    model = saved.build_model(CPU)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in saved.weights.items()
    }
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert all(not layer.zero_bias.any() for layer in model.recurrent.layers)
    assert all(parameter.requires_grad and parameter.data_ptr() % 64 == 0 for parameter in model.parameters())
    with torch.no_grad():  # writable
        model.output_bias.add_(1)


def test_weights_of_other_dtype_become_fp32(alone: Path) -> None:
    saved = loading.load_model(alone)
    expected = {name: weight.half().float() for name, weight in saved.weights.items()}
    saved.weights = {name: weight.half() for name, weight in saved.weights.items()}
    assert bits(dict(saved.build_model(CPU).state_dict())) == bits(expected)


def test_layers_are_flattened_for_cudnn_when_moved(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[Any] = []
    monkeypatch.setattr(recurrent, "flatten_for_cudnn", laid_out.append)
    model = loading.load_model(alone).build_model(CPU)
    assert laid_out == list(model.recurrent.layers)


# From Python and the command line


def test_model_save_from_python(trained: Path, tmp_path: Path) -> None:
    model = charlm.load(trained)
    model.save(tmp_path / "models" / "poem")
    again = charlm.load(tmp_path / "models" / "poem")
    assert again.sample("a", length=30, seed=1) == model.sample("a", length=30, seed=1)
    assert again.settings == model.settings
    assert again.checkpoint.folder == tmp_path / "models" / "poem"
    with pytest.raises(CheckpointError, match="no training state"):
        charlm.train(resume=tmp_path / "models" / "poem")


def test_save_writes_current_weights(trained: Path, tmp_path: Path) -> None:
    model = charlm.load(trained)
    with torch.no_grad():
        model.network.output_bias.fill_(0.5)
    model.save(tmp_path / "model")
    weights = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(weights["output_bias"], torch.full_like(weights["output_bias"], 0.5))


@pytest.mark.parametrize("occupy", [Path.mkdir, Path.touch, lambda path: path.symlink_to("gone")])
def test_occupied_folder_is_rejected(trained: Path, tmp_path: Path, occupy: Any) -> None:
    occupy(tmp_path / "model")
    with pytest.raises(UsageError, match=str(tmp_path / "model")):
        charlm.load(trained).save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_unwritable_folder_is_an_error(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CharlmError, match=str(tmp_path / "file" / "model")):
        charlm.load(trained).save(tmp_path / "file" / "model")


def test_commands_accept_saved_model(cli: Cli, trained: Path, poem_file: Path, tmp_path: Path) -> None:
    charlm.load(trained).save(tmp_path / "model")
    for arguments in (
        ("sample", tmp_path / "model", "--length", "5", "--seed", "1"),
        ("eval", tmp_path / "model", poem_file),
        ("score", tmp_path / "model", poem_file),
        ("train", poem_file, "--init-from", tmp_path / "model", "--out", "new", "--max-steps", "2"),
    ):
        result = cli(*arguments, "--quiet")
        assert (result.code, result.err) == (0, ""), arguments
    result = cli("info", tmp_path / "model", "--json")
    shown = json.loads(result.out)
    assert (result.code, shown["run"], shown["checkpoints"]) == (0, str(tmp_path / "model"), [])
    result = cli("train", "--resume", tmp_path / "model")
    assert result.code == 3
    assert "no training state" in result.err
    assert len(result.err.splitlines()) == 2


def test_model_commands_ignore_damaged_training_state(cli: Cli, trained: Path, poem_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained.parent, tmp_path / "copy")) / "run"
    for folder in runs.list_checkpoints(copy):
        damage(folder)
    for command, *arguments in (
        ("sample", "--length", "5", "--seed", "1"),
        ("eval",),
        ("score", poem_file),
        ("info",),
    ):
        result = cli(command, copy, *arguments, "--quiet")
        assert (result.code, result.err) == (0, ""), command
    assert cli("train", "--resume", copy).code == 3
