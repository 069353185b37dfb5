"""A full or failing disk: what was saved stays, training goes on where it can, and it is said."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import files, runs
from charlm.checkpoint import loading, writing
from charlm.checkpoint.contents import Checkpoint
from charlm.checkpoint.environment import describe_environment
from charlm.errors import CharlmError, CharlmWarning
from charlm.run_corpus import CorpusFile
from charlm.training.trainer import Trainer
from tests.conftest import ROOT, SMALL
from tests.training.conftest import Make, entries, make_trainer, steps_of

__all__ = ["make_trainer"]  # a fixture

Faults = Callable[..., Any]


class FailingDisk:
    """Has the Nth operation of ``files.py`` on the disk fail, once or from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_from = self.fail_until = 10**9
        self.error = errno.ENOSPC
        for owner, name in (
            *((Path, operation) for operation in ("open", "mkdir", "rename", "replace", "unlink")),
            *((os, operation) for operation in ("fsync", "open")),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(owner, name, self._failing(getattr(owner, name)))

    def fail(self, first: int, times: int, error: int) -> None:
        self.count, self.fail_from, self.fail_until, self.error = 0, first, first + times, error

    def _failing(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]
            if caller == "charlm.files":
                self.count += 1
                if self.fail_from <= self.count < self.fail_until:
                    raise OSError(self.error, os.strerror(self.error))
            return operation(*arguments, **options)

        return wrapper


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingDisk]:
    yield FailingDisk(monkeypatch)
    monkeypatch.undo()


def assert_files_are_complete(run: Path) -> None:
    for folder in runs.list_checkpoints(run):
        loading.load_checkpoint(folder)


@pytest.mark.parametrize("times", [1, 10**6], ids=["once", "for good"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_failed_save_keeps_previous_checkpoints(disk: FailingDisk, make_trainer: Make, error: int, times: int) -> None:
    trainer = make_trainer(max_steps=4, save_every_minutes=1e-9, keep_checkpoints=9)
    trainer.train()
    before = {
        folder.name: loading.load_checkpoint(folder).model.weights for folder in runs.list_checkpoints(trainer.run)
    }
    faults = 0
    for nth in range(1, 200):
        trainer.counters.steps += 1
        disk.fail(nth, times, error)
        try:
            runs.save_checkpoint(trainer.run, save_now(trainer), keep=9)
            failed = False
        except OSError:
            failed = True
        reached = disk.count >= nth
        disk.fail(10**9, 0, error)
        faults += reached
        assert_files_are_complete(trainer.run)
        for name, weights in before.items():
            kept = loading.load_checkpoint(trainer.run / name).model.weights
            assert all(torch.equal(kept[key], weight) for key, weight in weights.items())
        if not reached:
            assert not failed
            break
    assert faults >= 10
    files.remove_stale_temporaries(trainer.run)
    assert not [path for path in trainer.run.iterdir() if files.TEMPORARY_INFIX in path.name]


def save_now(trainer: Trainer) -> Checkpoint:
    environment = describe_environment(trainer.device, trainer.precision)
    return trainer.state.checkpoint(trainer.settings, trainer.corpus, {}, environment)


@pytest.mark.parametrize("name", ["config.toml", "corpus.json"])
def test_failed_start_leaves_no_partial_file(disk: FailingDisk, make_trainer: Make, name: str) -> None:
    trainer = make_trainer()
    before = (trainer.run / name).read_bytes()
    for nth in range(1, 100):
        disk.fail(nth, 1, errno.ENOSPC)
        try:
            runs.create_run(trainer.run, trainer.settings, CorpusFile.describe(trainer.corpus, trainer.run))
        except OSError:
            pass
        else:
            if disk.count < nth:
                break
        assert (trainer.run / name).read_bytes() == before
    assert nth > 5


def test_failed_save_warns_and_is_retried(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=8, save_every_minutes=1e-9, evaluate_every=100, keep_checkpoints=9)
    commit, failing = writing.write_checkpoint, {3, 4}

    def full(folder: Path, saved: Checkpoint) -> None:
        if saved.model.step in failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        commit(folder, saved)

    monkeypatch.setattr(writing, "write_checkpoint", full)
    with pytest.warns(CharlmWarning, match=r"step [34] .*: No space left"):
        trainer.train()
    assert steps_of(trainer.run) == [1, 2, 5, 6, 7, 8]


def test_failed_final_save_exits_1_and_lists_checkpoints(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=4, save_every_minutes=1e-9, evaluate_every=2)
    commit = writing.write_checkpoint

    def full(folder: Path, saved: Checkpoint) -> None:
        if saved.model.step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        commit(folder, saved)

    monkeypatch.setattr(writing, "write_checkpoint", full)
    with pytest.warns(CharlmWarning), pytest.raises(CharlmError, match="step-00000003") as caught:
        trainer.train()
    assert caught.value.exit_code == 1


def test_failed_pruning_does_not_stop_training(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(folder: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    trainer = make_trainer(max_steps=4, save_every_minutes=1e-9, keep_checkpoints=0)
    monkeypatch.setattr(files, "remove_folder", stuck)
    with pytest.warns(CharlmWarning, match="Permission denied"):
        trainer.train()
    assert steps_of(trainer.run) == [1, 2, 3, 4]


def test_metrics_write_error_warns_once(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, line: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = make_trainer()
    monkeypatch.setattr(files, "append_line", full)
    with pytest.warns(CharlmWarning, match="metrics") as said:
        trainer.train()
    assert len(said) == 1
    assert entries(trainer.run) == [] if (trainer.run / runs.METRICS).exists() else True
    assert runs.load_model(trainer.run, "latest").step == 12


def test_tensorboard_write_error_warns_once(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.summary.writer import record_writer

    def full(self: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = make_trainer()
    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    with pytest.warns(CharlmWarning, match="TensorBoard") as said:
        trainer.train()
    assert len(said) == 1
    assert runs.load_model(trainer.run, "latest").step == 12


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_file_size_limit_exits_1_and_keeps_checkpoints(tmp_path: Path, poem_file: Path) -> None:
    """The checkpoints of the first run fit; then the system lets no file grow beyond a few kilobytes."""

    def charlm(*arguments: object, limit_bytes: int = resource.RLIM_INFINITY) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "charlm", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY)),
            timeout=120,
        )

    first = charlm("train", poem_file, *SMALL)
    assert first.returncode == 0, first.stderr
    second = charlm("train", "--resume", "checkpoints/poem", "--max-steps", "16", limit_bytes=12_000)
    assert second.returncode == 1, second.stderr
    assert "File too large" in second.stderr
    assert "step-00000008" in second.stderr
    assert "Traceback" not in second.stderr
    assert runs.load_model(tmp_path / "checkpoints" / "poem", "latest").step == 8
    assert charlm("sample", "checkpoints/poem", "--length", "5").returncode == 0
