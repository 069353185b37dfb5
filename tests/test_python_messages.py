"""What charlm has to say reaches a Python user: startup messages through ``logging``, warnings through ``warnings``."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import charlm
from charlm import console, errors
from charlm.errors import CharlmWarning
from charlm.training.plan import TrainingPlan
from charlm.training.trainer import Trainer

TINY: dict[str, Any] = {"hidden_size": 8, "batch_size": 4, "sequence_length": 16, "threads": 1, "sample_length": 0}


def train(text: Path, out: Path, **settings: Any) -> charlm.Run:
    return charlm.train(text, out=out, **{"max_steps": 2, **TINY, **settings})


@pytest.fixture
def listening(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="charlm")
    return caplog


def messages(log: pytest.LogCaptureFixture) -> list[str]:
    assert {(record.name, record.levelno) for record in log.records} <= {("charlm", logging.INFO)}
    return [record.getMessage() for record in log.records]


@pytest.mark.parametrize("quiet", [True, False])
def test_startup_messages_are_logged_and_only_printed_on_request(
    poem_file: Path,
    tmp_path: Path,
    listening: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    quiet: bool,
) -> None:
    train(poem_file, tmp_path / "run", quiet=quiet)
    logged = messages(listening)
    for start in ("Text: poem", "Model: LSTM", "Before training: "):
        assert sum(message.startswith(start) for message in logged) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert ([] if quiet else logged) == [line for line in lines if line in logged]
    assert (lines == []) == quiet
    assert not any(message.startswith("step ") for message in logged)  # progress is no message


def test_a_resume_says_what_has_changed(poem_file: Path, tmp_path: Path, listening: pytest.LogCaptureFixture) -> None:
    run = train(poem_file, tmp_path / "100%s run")  # not a format
    listening.clear()
    charlm.train(resume=run, max_steps=4, learning_rate=0.001)
    logged = messages(listening)
    assert f"Resuming {run.folder} from step 2." in logged
    assert any(message.startswith("Changed settings: ") and "learning_rate" in message for message in logged)


def test_what_happens_in_the_middle_is_logged_too(
    poem_file: Path, tmp_path: Path, listening: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Trainer.train

    def stopped(self: Trainer) -> Any:
        self.monitor.log_gap(1, 60)
        return begin(self)

    monkeypatch.setattr(Trainer, "train", stopped)
    train(poem_file, tmp_path / "run")
    assert any(message.startswith("Stopped for 60 seconds before step 1") for message in messages(listening))


def test_nothing_is_worked_out_for_nobody(poem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingPlan, "startup_messages", None)
    train(poem_file, tmp_path / "run")


def test_charlm_installs_no_handler_and_says_nothing_by_itself(
    poem_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = list(logging.root.handlers), logging.root.level
    train(poem_file, tmp_path / "run")
    logger = logging.getLogger("charlm")
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    assert (list(logging.root.handlers), logging.root.level) == before
    assert capfd.readouterr() == ("", "")


def test_loading_a_run_with_a_damaged_checkpoint_warns(poem_file: Path, tmp_path: Path) -> None:
    run = train(poem_file, tmp_path / "run", max_steps=4, evaluate_every=2, save_every_minutes=1e-9)
    weights = run.folder / "step-00000004/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(CharlmWarning, match=r"step-00000004.*Using step-0000000"):
        model = charlm.load(run, "latest")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.evaluate("Wölfe").characters == 5


def test_texts_that_the_command_line_warns_about_warn(poem_file: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"ab\0c" * 2000)
    with pytest.warns(CharlmWarning, match=r"binary\.txt.*--unit byte"):
        train(binary, tmp_path / "run")


def test_a_cache_that_cannot_be_used_warns(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())
    (tmp_path / "cache").write_text("a file")
    own = tmp_path / "own.txt"  # a text of no other test, since this process keeps it in a temporary folder
    own.write_text(poem + "Nur hier.\n", encoding="utf-8")
    with pytest.warns(CharlmWarning, match="cache"):
        train(own, tmp_path / "run", cache_dir=tmp_path / "cache")


def test_a_log_that_cannot_be_written_warns(poem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlm.files.append_line", fail)
    with pytest.warns(CharlmWarning, match=r"metrics\.jsonl.*No space left"):
        train(poem_file, tmp_path / "run")
    assert shutil.rmtree(tmp_path / "run") is None


def test_a_message_that_nobody_can_print_is_still_logged(
    listening: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    console.announce("50% done", quiet=False)
    assert messages(listening) == ["50% done"]
