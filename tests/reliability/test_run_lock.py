"""One training a run folder; and whoever reads while it trains always finds something whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from charlm import runs
from charlm.config import SettingsSource
from charlm.errors import UsageError
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.conftest import ROOT, SMALL, Run
from tests.training.conftest import Make, make_trainer

__all__ = ["make_trainer"]  # a fixture

LONG = (
    *SMALL,
    "--max-steps",
    "100000",
    "--save-every-minutes",
    "0.0001",
    "--keep-checkpoints",
    "0",
    "--evaluate-every",
    "50",
)


@pytest.fixture
def training(tmp_path: Path, poem_file: Path) -> Iterator["subprocess.Popen[str]"]:
    """A training that goes on and on, saving all the while."""
    with subprocess.Popen(
        [sys.executable, "-m", "charlm", "train", str(poem_file), *LONG],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not runs.list_checkpoints(tmp_path / "checkpoints" / "poem"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        yield process
        process.kill()


def test_second_training_process_is_rejected(
    training: "subprocess.Popen[str]", charlm: Run, poem_file: Path, tmp_path: Path
) -> None:
    for arguments in (("train", "--resume", "checkpoints/poem"), ("train", poem_file, *SMALL, "--overwrite")):
        second = charlm(*arguments)
        assert second.returncode == 2
        assert "another training" in second.stderr
    training.send_signal(signal.SIGKILL)
    training.wait()
    after = charlm("train", "--resume", "checkpoints/poem", "--max-steps", "1")
    assert after.returncode == 0, after.stderr  # the lock died with its process


def test_reading_during_training_always_works(training: "subprocess.Popen[str]", tmp_path: Path) -> None:
    run = tmp_path / "checkpoints" / "poem"
    steps = {runs.load_model(run, which).step for _ in range(150) for which in ("best", "latest")}
    assert training.poll() is None
    assert len(steps) > 3


def test_change_between_planning_and_locking_is_detected(make_trainer: Make, poem_file: Path) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    plan = plan_training(
        TrainingRequest([str(poem_file)], [SettingsSource("test", {"max_steps": 6})], resume=str(trainer.run))
    )
    make_trainer(resume=trainer.run, max_steps=4).train()
    with pytest.raises(UsageError, match="just now"):
        plan.train(quiet=True)
    assert runs.load_model(trainer.run, "latest").step == 4
