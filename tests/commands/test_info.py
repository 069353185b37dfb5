"""``charlm info``: one run as a page, several as a table, both as JSON."""

import json
from pathlib import Path

import pytest
import torch

from charlm import runs
from charlm.config import SettingsSource, TrainSettings
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli


def test_info_report_of_one_run(cli: Cli, trained: Path) -> None:
    result = cli("info", trained)
    assert result.code == 0, result.err
    assert result.err == ""
    for name in TrainSettings.model_fields:
        assert name in result.out
    best = runs.load_model(trained, "best")
    assert f"{sum(weight.numel() for weight in best.weights.values()):,}" in result.out
    assert f"{len(best.vocabulary)} characters" in result.out
    assert f"{best.metrics['loss_validation']:.4f}" in result.out
    assert "Checkpoints: 1, 2, 3, 4" in result.out


def test_byte_level_model_is_described_in_bytes(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    settings = {"unit": "byte", "hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0})]
    plan_training(TrainingRequest([str(poem_file)], layers, out=tmp_path / "run")).trainer(quiet=True).train()
    page = cli("info", "run").out
    assert "Vocabulary: 256 bytes\n" in page
    metrics = json.loads(cli("info", "run", "--json").out)["metrics"]
    assert metrics["bits_per_byte_validation"] > 0
    assert not any("character" in name for name in metrics)
    table = cli("info", "run", "run").out.splitlines()
    assert f"{metrics['bits_per_byte_validation']:.4f}" in table[1]


def test_setting_is_shown_on_one_line(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    settings = {"hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1, "log_every": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0, "document_separator": "\n"})]
    plan_training(TrainingRequest([str(poem_file)], layers, out=tmp_path / "run")).trainer(quiet=True).train()
    page = cli("info", "run").out
    assert "document_separator \\n, document_per_file off, shuffle_documents off, " in page
    assert "init_from none\n" in page
    (rate,) = [line.split()[1] for line in page.splitlines() if line.strip().startswith("learning_rate ")]
    assert float(rate) == pytest.approx(0.004 / 50)  # of the first of 50 steps of warmup


def test_json_of_single_run_is_an_object(cli: Cli, trained: Path) -> None:
    shown = json.loads(cli("info", trained, "--json").out)
    best = runs.load_model(trained, "best")
    assert shown["step"] == best.step
    assert shown["settings"] == best.settings.model_dump()
    assert shown["vocabulary"] == best.vocabulary.characters
    assert shown["parameters"].pop("total") == sum(shown["parameters"].values())
    assert shown["metrics"]["loss_validation"] == best.metrics["loss_validation"]
    assert shown["metrics"]["loss_validation_exact"] > 0
    assert shown["checkpoints"] == [1, 2, 3, 4]
    assert shown["environment"]["torch"]


def test_training_time_is_read_from_checkpoint(cli: Cli, trained: Path) -> None:
    logged = [json.loads(line) for line in (trained / runs.METRICS).read_text().splitlines()]
    (expected,) = [
        entry["progress_training_seconds"] for entry in logged if entry["step"] == 4 and "loss_train" in entry
    ]
    shown = json.loads(cli("info", trained, "--checkpoint", "latest", "--json").out)
    assert 0 < expected <= shown["training_seconds"] < expected + 60


def test_multiple_runs_give_table_or_json_list(cli: Cli, trained: Path) -> None:
    table = cli("info", trained, trained / "step-00000002").out.splitlines()
    assert len(table) == 3
    assert table[0].split()[:3] == ["run", "step", "model"]
    assert table[2].split()[:2] == [str(trained), "2"]
    shown = json.loads(cli("info", trained, trained / "step-00000002", "--json").out)
    assert [run["step"] for run in shown] == [runs.load_model(trained, "best").step, 2]


def test_checkpoint_option_selects_checkpoint(cli: Cli, trained: Path) -> None:
    for which, step in (("latest", 4), ("1", 1)):
        assert json.loads(cli("info", trained, "--checkpoint", which, "--json").out)["step"] == step


def test_info_does_not_change_run_folder(cli: Cli, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    cli("info", trained)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_the_system_is_described_without_a_run(cli: Cli) -> None:
    shown = json.loads(cli("info", "--system", "--json").out)
    assert shown["torch"] == torch.__version__
    assert shown["processors"] >= 1
    assert shown["threads"] >= 1
    assert shown["native_kernels"]
    page = cli("info", "--system").out
    for name in ("training_kernel", "sampling_kernel", "processor"):
        assert shown[name] in page


def test_info_wants_either_runs_or_the_system(cli: Cli) -> None:
    assert cli("info").code == 2
    assert cli("info", "run", "--system").code == 2
