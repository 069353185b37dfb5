"""``charlm eval``: the exact loss, the extra metrics, and all of it as JSON."""

import errno
import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import zeros_like

from charlm import runs
from charlm.config import SettingsSource
from charlm.evaluation import dynamic
from charlm.summary import summarize
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli

KEYS = {
    *(
        "run",
        "step",
        "text",
        "unit",
        "exact",
        "num_segments",
        "nats_per_character",
        "bits_per_character",
        "bits_per_byte",
        "perplexity",
    ),
    *("characters", "unknown_characters", "bytes", "seconds"),
}


def eval_json(cli: Cli, *arguments: object) -> dict[str, Any]:
    result = cli("eval", *arguments, "--json", "--threads", "1")
    assert result.code == 0, result.err
    assert result.err == ""
    report = json.loads(result.out)
    assert isinstance(report, dict)
    return report


@pytest.fixture(scope="session")
def run_with_test_split(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a test part, an unknown symbol and documents of a line."""
    folder = tmp_path_factory.mktemp("parted")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    settings = {
        "hidden_size": 12,
        "embedding_size": 6,
        "batch_size": 4,
        "sequence_length": 16,
        "threads": 1,
        "max_steps": 2,
        "sample_length": 0,
        "test_fraction": 0.2,
        "min_count": 20,
        "document_separator": "\n",
    }
    plan = plan_training(
        TrainingRequest([str(folder / "poem.txt")], [SettingsSource("test", settings)], out=folder / "run")
    )
    plan.trainer(quiet=True).train()
    return folder / "run"


def test_eval_matches_final_training_loss(cli: Cli, trained: Path) -> None:
    report = eval_json(cli, trained)
    assert report.keys() == KEYS
    expected = summarize(trained).metrics["loss_validation_exact"]
    assert report["nats_per_character"] == pytest.approx(expected, abs=1e-6)
    assert report["exact"] is True
    assert report["characters"] == 408
    assert report["unknown_characters"] == 0


def test_nats_bits_and_perplexity_agree(cli: Cli, trained: Path, poem: str) -> None:
    report = eval_json(cli, trained)
    validation = poem[-408:]
    assert report["bits_per_character"] == pytest.approx(report["nats_per_character"] / math.log(2))
    assert report["perplexity"] == pytest.approx(math.exp(report["nats_per_character"]))
    assert report["bytes"] == len(validation.encode())
    assert report["bits_per_byte"] * report["bytes"] == pytest.approx(report["bits_per_character"] * len(validation))


def test_eval_report_text(cli: Cli, trained: Path) -> None:
    result = cli("eval", trained)
    assert result.code == 0, result.err
    for words in (
        "the validation split of poem (exact)",
        "nats per character",
        "bits per byte (UTF-8)",
        "perplexity",
        "408",
    ):
        assert words in result.out
    assert "For comparison" not in result.out


def test_eval_of_files_stdin_and_other_encoding(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "Die Wölfe zählen Schafe.\n"
    (tmp_path / "utf-8.txt").write_bytes(line.encode())
    (tmp_path / "latin.txt").write_bytes(line.encode("latin-1"))
    expected = eval_json(cli, trained, "utf-8.txt")
    assert expected["characters"] == len(line)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    same = ("nats_per_character", "bits_per_byte", "characters", "bytes")
    for arguments in (("latin.txt", "--encoding", "latin-1"), ("-",)):
        found = eval_json(cli, trained, *arguments)
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    assert eval_json(cli, trained, "utf-8.txt", "utf-8.txt")["characters"] == 2 * len(line)


def test_test_split_with_unknown_characters_and_documents(cli: Cli, run_with_test_split: Path, poem: str) -> None:
    report = eval_json(cli, run_with_test_split, "--split", "test")
    start, end = runs.load_model(run_with_test_split).corpus.split.test
    assert report["text"] == "the test split of poem"
    assert report["characters"] == end - start
    known = set(runs.load_model(run_with_test_split).vocabulary.characters)
    assert report["unknown_characters"] == sum(character not in known for character in poem[start:end]) > 0


def test_checkpoint_option_selects_checkpoint(cli: Cli, trained: Path) -> None:
    assert eval_json(cli, trained, "--checkpoint", "1")["step"] == 1
    assert eval_json(cli, trained / "step-00000002")["step"] == 2


def test_multiple_segments_are_reported_as_approximate(cli: Cli, trained: Path, poem_file: Path, poem: str) -> None:
    exact = eval_json(cli, trained, poem_file)
    report = eval_json(cli, trained, poem_file, "--num-segments", "3")
    assert report["exact"] is False
    assert report["nats_per_character"] == pytest.approx(exact["nats_per_character"], abs=0.01)
    assert report["num_segments"] == 3
    assert (
        "approximate: 4 segments" in cli("eval", trained, poem_file, "--num-segments", "64").out
    )  # too short for more
    assert eval_json(cli, trained, "--num-segments", "3")["exact"] is True  # too short for more than one


def test_dynamic_evaluation_leaves_static_loss_unchanged(cli: Cli, trained: Path) -> None:
    static = eval_json(cli, trained)
    report = eval_json(cli, trained, "--dynamic", "--independent-windows", "50")
    assert report["nats_per_character"] == static["nats_per_character"]
    learning, windows = report["dynamic"], report["independent_windows"]
    assert learning["nats_per_character"] < static["nats_per_character"]
    assert learning["bits_per_character"] == pytest.approx(learning["nats_per_character"] / math.log(2))
    assert windows["window_characters"] == 50
    assert windows == eval_json(cli, trained, "--independent-windows", "50")["independent_windows"]
    other = eval_json(cli, trained, "--dynamic", "--dynamic-learning-rate", "1e-8", "--dynamic-segment-length", "9")
    assert other["dynamic"]["nats_per_character"] == pytest.approx(static["nats_per_character"], abs=1e-3)
    assert other["dynamic"]["settings"]["dynamic_segment_length"] == 9
    assert "dynamic evaluation" in cli("eval", trained, "--dynamic", "--dynamic-decay", "0.1").out


def test_baselines_of_run_corpus_and_other_text(cli: Cli, trained: Path, tmp_path: Path) -> None:
    inspected = json.loads(cli("corpus", "inspect", trained.parent / "poem.txt", "--json").out)
    assert eval_json(cli, trained, "--baselines")["baselines"] == inspected["baselines"]
    (tmp_path / "other.txt").write_text("Wölfe" * 20, encoding="utf-8")
    baselines = eval_json(cli, trained, "other.txt", "--baselines")["baselines"]
    assert baselines["train_characters"] == inspected["baselines"]["train_characters"]
    assert baselines["validation_characters"] == 100
    assert "xz" in cli("eval", trained, "--baselines").out


def test_loss_by_context_length_is_reported_and_plotted(cli: Cli, trained: Path, tmp_path: Path) -> None:
    report = eval_json(cli, trained, "--context-plot", "context.svg")
    assert (tmp_path / "context.svg").read_text().startswith("<svg")
    lengths = [point["context_characters"] for point in report["context_loss"]]
    assert lengths == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
    for point in report["context_loss"]:
        assert point["bits_per_character"] > 0
        assert point["bits_per_character"] == pytest.approx(point["nats_per_character"] / math.log(2))
    assert eval_json(cli, trained, "--context-loss")["context_loss"] == report["context_loss"]
    page = cli("eval", trained, "--context-loss").out
    for context in ("0 characters", "1 character", "2–3 characters", "256–407 characters"):  # of 408 in the text
        assert f"after {context} of context" in page


def test_diverged_dynamic_evaluation_fails(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "_root_mean_squares", lambda model, *text: list(map(zeros_like, model.parameters())))
    result = cli("eval", trained, "--dynamic", "--dynamic-learning-rate", "10")
    assert (result.code, result.out) == (1, "")
    assert "Lower --dynamic-learning-rate (now 10)." in result.err


@pytest.mark.skipif(os.name == "nt", reason="needs devices that are files")
def test_svg_replaces_only_regular_files(cli: Cli, trained: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (("pipe", "not a regular file"), (os.devnull, "not a regular file"), (tmp_path, "a folder")):
        result = cli("eval", trained, "--context-plot", path)
        assert (result.code, result.out) == (2, "")
        assert f"{path}: is {says}" in result.err
    assert (tmp_path / "pipe").is_fifo()


def test_evaluation_error_is_not_reported_as_svg_write_error(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("charlm.evaluation.report.evaluate_all", failing)
    result = cli("eval", trained, "--context-plot", "context.svg")
    assert result.code == 1
    assert "cannot be written" not in result.err
    assert not (tmp_path / "context.svg").exists()


def test_unwritable_svg_path_is_reported(cli: Cli, trained: Path) -> None:
    result = cli("eval", trained, "--context-plot", "nowhere/context.svg")
    assert result.code == 2
    assert "context.svg: cannot be written: No such file" in result.err


def test_byte_level_model_is_measured_in_bytes(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    settings = {"unit": "byte", "hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0})]
    plan_training(TrainingRequest([str(poem_file)], layers, out=tmp_path / "run")).trainer(quiet=True).train()
    options = ("--independent-windows", "9", "--context-loss", "--baselines", "--dynamic", "--context-plot", "x.svg")
    page = cli("eval", "run", *options).out
    assert page.count("bits per byte") == 2  # the loss, and the heading of the comparison
    assert "independent windows of 9 bytes" in page
    assert "character" not in page
    report = eval_json(cli, "run", *options)
    assert "character" not in json.dumps(report)
    assert report["unit"] == "byte"
    assert report["bits_per_byte"] == pytest.approx(report["nats_per_byte"] / math.log(2))
    start, end = runs.load_model(Path("run")).corpus.split.validation
    assert report["bytes"] == end - start
    assert "character" not in (tmp_path / "x.svg").read_text(encoding="utf-8")


def test_progress_bar_on_terminal_unless_quiet(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert cli("eval", trained, "--quiet").err == ""
    shown = cli("eval", trained, "--dynamic", "--independent-windows", "9", "--context-plot", "context.svg").err
    for what in ("evaluating", "dynamic evaluation", "independent windows", "loss by context"):
        assert f"{what}:   0%" in shown


def test_eval_does_not_change_run_folder(cli: Cli, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    cli("eval", trained, "--dynamic")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
