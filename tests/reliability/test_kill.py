"""Killed at any moment, a training loses nothing that was saved, and ends as if it had not been killed."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charlm import runs
from charlm.checkpoint import loading
from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.conftest import ROOT
from tests.training.conftest import assert_same_training

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KILLS = int(os.environ.get("CHARLM_TEST_KILLS", "50"))
SEED = int(os.environ.get("CHARLM_TEST_SEED", "1"))
SETTINGS: dict[str, Any] = {
    "hidden_size": 16,
    "embedding_size": 8,
    "num_layers": 2,
    "batch_size": 4,
    "sequence_length": 16,
    "max_steps": 60,
    "dropout": 0.2,
    "log_every": 3,
    "evaluate_every": 20,
    "sample_length": 5,
    "save_every_minutes": 1e-9,  # a checkpoint after every step
    "keep_checkpoints": 1,
    "threads": 1,
}

Request = Callable[..., dict[str, Any]]


@pytest.fixture
def fork_request(tmp_path: Path, poem_file: Path) -> Iterator[Request]:
    """Has a child train in a run folder until it is done or killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.fork_server"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None

        def send(run: Path, kill_after_seconds: float) -> dict[str, Any]:
            asked = {
                "settings": SETTINGS,
                "text": str(poem_file),
                "run": str(run),
                "kill_after_seconds": kill_after_seconds,
            }
            print(json.dumps(asked), file=nursery.stdin, flush=True)
            answer: dict[str, Any] = json.loads(nursery.stdout.readline())
            return answer

        yield send
        nursery.stdin.close()


def test_killed_and_resumed_run_equals_uninterrupted(fork_request: Request, tmp_path: Path, poem_file: Path) -> None:
    alone = tmp_path / "alone"
    plan_training(TrainingRequest([str(poem_file)], [SettingsSource("test", SETTINGS)], out=alone)).train(quiet=True)
    expected = runs.load_checkpoint(alone)
    chance = random.Random(SEED)
    kills = number = 0
    while kills < KILLS:
        number += 1
        run = tmp_path / f"run-{number}"
        while (answer := fork_request(run, chance.uniform(0.05, 2.0)))["killed"]:
            kills += 1
            for folder in runs.list_checkpoints(run):
                loading.load_checkpoint(folder)
        assert answer["code"] == 0, f"seed {SEED}, run {number}, after {kills} kills"
        ended = runs.load_checkpoint(run)
        assert_same_training(ended, expected)
        assert logged(run) == logged(alone)
        assert not list(run.glob(".*writing*"))
    print(f"{kills} kills in {number} runs, seed {SEED}")


def logged(run: Path) -> list[tuple[int, float]]:
    return [
        (entry["step"], entry["loss_train"])
        for entry in runs.read_json_lines(run / runs.METRICS)
        if "loss_train" in entry
    ]
