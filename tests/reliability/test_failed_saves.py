"""A save that fails is tried again, and what cannot be read is not taken for damaged."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charlm import files, runs
from charlm.checkpoint import writing
from charlm.checkpoint.contents import Checkpoint
from charlm.config import SettingsSource
from charlm.errors import CharlmError, CharlmWarning, UnreadableError
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from charlm.training.saving import Saver
from tests.commands.conftest import Cli, cli
from tests.training.conftest import Make, fake_validation_losses, make_trainer, send_signal_at_step, steps_of

__all__ = ["cli", "make_trainer", "send_signal_at_step"]  # fixtures


def fail_saves(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    commit = writing.write_checkpoint

    def failing(folder: Path, saved: Checkpoint) -> None:
        if saved.model.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        commit(folder, saved)

    monkeypatch.setattr(writing, "write_checkpoint", failing)


def test_unsaved_best_does_not_count(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_validation_losses(monkeypatch, [9.0, 5.0, 3.0, 4.0, 6.0])  # before learning, then at steps 2, 4, 6 and 8
    trainer = make_trainer(max_steps=8, evaluate_every=2, keep_checkpoints=9)
    fail_saves(monkeypatch, {4})
    with pytest.warns(CharlmWarning, match="step 4"):
        trainer.train()
    assert steps_of(trainer.run) == [2, 6, 8]  # 6 is better than what was saved, though not than step 4
    best = runs.load_model(trainer.run, "best")
    assert (best.step, best.metrics["loss_validation"]) == (6, 4.0)
    assert best.progress.best_validation_loss == 4.0
    assert runs.load_model(trainer.run, "latest").progress.evaluations_without_improvement == 1


def test_patience_ignores_unsaved_best(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_validation_losses(monkeypatch, [9.0, 5.0, 6.0, 3.0, 5.5, 4.0, 7.0, 7.0])
    trainer = make_trainer(max_steps=100, evaluate_every=2, patience=3)
    fail_saves(monkeypatch, {6})  # patience is 1 by then, and 1 again afterwards
    with pytest.warns(CharlmWarning):
        trainer.train()
    assert runs.load_model(trainer.run, "best").metrics["loss_validation"] == 4.0  # the evaluation at step 10


@pytest.mark.parametrize(("minutes", "expected"), [(5.0, [300, 330, 360]), (0.1, [6, 12, 18])])
def test_failed_save_is_retried_soon(
    minutes: float, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(runs, "save_checkpoint", fail)
    saver, attempts = Saver(tmp_path, minutes, keep=1), []
    for second in range(expected[-1] + 1):
        if second >= saver.due_seconds:
            attempts.append(second)
            unsaved: Any = SimpleNamespace(
                model=SimpleNamespace(step=1, progress=SimpleNamespace(training_seconds=float(second)))
            )
            with pytest.warns(CharlmWarning, match="step 1"):
                assert not saver.save(unsaved)
    assert attempts == expected


def make_unreadable(monkeypatch: pytest.MonkeyPatch, inside: Callable[[Path], bool], error: int) -> None:
    """Has the system refuse to read some files, as a failing disk or a lack of file handles does."""

    def wrap(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def reading(path: Any, *arguments: Any, **options: Any) -> Any:
            mode = str(options.get("mode", arguments[0] if arguments else "r"))
            if isinstance(path, str | Path) and inside(Path(path)) and not set(mode) & set("wxa"):
                raise OSError(error, os.strerror(error), str(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(owner, name, reading)

    wrap(Path, "read_bytes")
    wrap(Path, "read_text")
    wrap(Path, "open")
    scandir, open_descriptor = os.scandir, os.open

    def opening(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if isinstance(path, str | Path) and inside(Path(path)) and not flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(error, os.strerror(error), str(path))
        return open_descriptor(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", opening)

    def listing(path: Any = ".") -> Any:
        if inside(Path(path)):
            raise OSError(error, os.strerror(error), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)


ERRORS = pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES], ids=errno.errorcode.get)
FILES = ["manifest.json", "config.json", "model.safetensors", "vocabulary.json", "training_state.safetensors", ""]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@ERRORS
@pytest.mark.parametrize("name", FILES)
def test_unreadable_is_not_damaged(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, poem_file: Path, error: int, name: str
) -> None:
    trainer = make_trainer(max_steps=6, evaluate_every=2, keep_checkpoints=9)
    trainer.train()
    before, steps = snapshot(trainer.run), steps_of(trainer.run)
    newest = trainer.run / "step-00000006"
    with monkeypatch.context() as patch:
        make_unreadable(patch, lambda path: path == newest / name if name else path == trainer.run, error)
        for resume in (str(trainer.run), "auto"):
            with pytest.raises(UnreadableError) as caught:
                plan_training(
                    TrainingRequest(
                        [str(poem_file)],
                        [SettingsSource("test", {})],
                        out=trainer.run if resume == "auto" else None,
                        resume=resume,
                    )
                )
            assert caught.value.exit_code == 1
            assert str(newest / name if name else trainer.run) in caught.value.message
            assert os.strerror(error) in caught.value.message
        if name != "training_state.safetensors":
            with pytest.raises(UnreadableError):
                runs.load_model(trainer.run, "best")
    assert snapshot(trainer.run) == before
    assert steps_of(trainer.run) == steps


@ERRORS
def test_folder_with_unreadable_settings_is_a_run(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, poem_file: Path, error: int
) -> None:
    trainer = make_trainer(max_steps=4, evaluate_every=2)
    trainer.train()
    before = snapshot(trainer.run)
    with monkeypatch.context() as patch:
        make_unreadable(patch, lambda path: path == trainer.run / "config.toml", error)
        for options in ({"resume": str(trainer.run)}, {"out": trainer.run, "overwrite": True}):
            with pytest.raises(UnreadableError):
                plan_training(TrainingRequest([str(poem_file)], [SettingsSource("test", {})], **options))  # type: ignore[arg-type]
    assert snapshot(trainer.run) == before


@ERRORS
def test_unreadable_later_checkpoints_are_kept(make_trainer: Make, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    trainer = make_trainer(max_steps=8, evaluate_every=2, keep_checkpoints=9)
    trainer.train()
    before = snapshot(trainer.run)
    with monkeypatch.context() as patch:
        make_unreadable(patch, lambda path: path == trainer.run / "step-00000006" / "model.safetensors", error)
        with pytest.raises(UnreadableError):
            runs.truncate_after(trainer.run, 2)
    assert snapshot(trainer.run) == before


@ERRORS
def test_pruning_with_unreadable_checkpoint_removes_nothing(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    trainer = make_trainer(max_steps=8, evaluate_every=2, keep_checkpoints=9)
    trainer.train()
    before = steps_of(trainer.run)
    with monkeypatch.context() as patch:
        make_unreadable(patch, lambda path: path == trainer.run / "step-00000004" / "config.json", error)
        with pytest.raises(UnreadableError):
            runs.prune_checkpoints(trainer.run, 0)
    assert steps_of(trainer.run) == before


@pytest.mark.parametrize("command", ["sample", "eval", "score", "info"])
def test_commands_report_unreadable_file(
    cli: Cli, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    trainer = make_trainer(max_steps=4, evaluate_every=2)
    trainer.train()
    with monkeypatch.context() as patch:
        make_unreadable(patch, lambda path: path.name == "model.safetensors", errno.EIO)
        result = cli(command, trainer.run)
    assert result.code == 1
    assert "model.safetensors" in result.err
    assert os.strerror(errno.EIO) in result.err
    assert "Traceback" not in result.err


def test_os_error_is_reported_with_path(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, poem_file: Path, tmp_path: Path
) -> None:
    plan = plan_training(
        TrainingRequest([str(poem_file)], [SettingsSource("test", {"max_steps": 4})], out=tmp_path / "run")
    )

    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/some/text")

    monkeypatch.setattr("charlm.training.trainer.Trainer.train", broken)
    with pytest.raises(CharlmError) as caught:
        plan.train(quiet=True)
    assert caught.value.message == f"/some/text: {os.strerror(errno.EIO)}."


def test_metrics_are_synced_before_checkpoint(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=4, evaluate_every=2)
    order: list[str] = []
    sync, commit = files.sync_file, writing.write_checkpoint
    monkeypatch.setattr(files, "sync_file", lambda path: (order.append(path.name), sync(path)))
    monkeypatch.setattr(
        writing, "write_checkpoint", lambda folder, saved: (order.append(folder.name), commit(folder, saved))
    )
    trainer.train()
    assert order == ["metrics.jsonl", "step-00000002", "metrics.jsonl", "step-00000004"]
