"""Real processes, started by torchrun: the same mathematics as in one, and what happens when one of them ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import FileLock

import charlm
from charlm import runs
from tests.conftest import ROOT
from tests.training.conftest import SETTINGS, assert_same_training, entries, steps_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv there")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
SESSION = ROOT / "tests" / "end_to_end" / "torchrun_session.py"
MANY_SECONDS = 120.0
LONG = {**SETTINGS, "max_steps": 1_000_000, "save_every_minutes": 1e-9, "evaluate_every": 1_000_000, "dropout": 0.3}
# Fifty steps: with padding at the end of an epoch, and, in the second, all that a window can have
COMPARED = {**SETTINGS, "max_steps": 50, "log_every": 1, "evaluate_every": 25, "sample_length": 0}
EVERYTHING = {**COMPARED, "dropout": 0.4, "accumulation_steps": 2, "document_separator": "\n", "num_layers": 2}
HALF = {**SETTINGS, "schedule": "constant", "dropout": 0.3, "sample_length": 0}


def start(processes: int, *arguments: object, torchrun: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*TORCHRUN, str(processes), *torchrun, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_session(processes: int, folder: Path, trainings: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Trains in several processes, one training after another; all of them use ``folder``."""
    file = folder / "trainings.json"
    file.write_text(json.dumps([{"cache_dir": str(folder / "cache"), **training} for training in trainings]))
    with start(processes, SESSION, file) as process:
        stdout, stderr = process.communicate(timeout=MANY_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def losses_of(run: Path) -> list[float]:
    return [entry["loss_train"] for entry in entries(run) if "loss_train" in entry]


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the processes in which pytest runs tests makes for all."""
    in_parallel = "PYTEST_XDIST_WORKER" in os.environ
    folder = (factory.getbasetemp().parent if in_parallel else factory.getbasetemp()) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            make(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, poem: str) -> Path:
    def write(folder: Path) -> None:
        (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")

    return make_once(tmp_path_factory, "torchrun-text", write) / "poem.txt"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The folder of a session with two processes."""
    return make_once(tmp_path_factory, "torchrun-two", partial(train_in_two, text))


def train_in_two(text: Path, folder: Path) -> None:
    trainings = [
        {**COMPARED, "out": str(folder / "compared"), "slow_evaluation": 8.0, "quiet": False},
        {**EVERYTHING, "out": str(folder / "everything")},
        {**HALF, "out": str(folder / "whole"), "max_steps": 12},
        {**HALF, "out": str(folder / "half"), "max_steps": 6},
        {"copy_of": str(folder / "half"), "resume": str(folder / "resumed"), "max_steps": 12},
    ]
    session = run_session(2, folder, [{"text": str(text), **training} for training in trainings])
    assert session.returncode == 0, session.stderr
    (folder / "stdout").write_text(session.stdout)
    (folder / "stderr").write_text(session.stderr)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, text: Path, two: Path) -> Path:
    """The folder of a session with four, which resumes one of two, and ends with a training that is refused."""
    return make_once(tmp_path_factory, "torchrun-four", partial(train_in_four, text, two))


def train_in_four(text: Path, two: Path, folder: Path) -> None:
    shutil.copytree(two / "half", folder / "half")
    trainings = [
        {**COMPARED, "out": str(folder / "compared")},
        {**EVERYTHING, "out": str(folder / "everything")},
        {"resume": str(folder / "half"), "max_steps": 12},
        {**SETTINGS, "out": str(folder / "refused"), "by_rank": "hidden_size"},
    ]
    session = run_session(4, folder, [{"text": str(text), **training} for training in trainings])
    (folder / "stderr").write_text(session.stderr)
    assert session.returncode == 1, session.stderr


@pytest.mark.parametrize("name", ["compared", "everything"])
@pytest.mark.parametrize("processes", ["two", "four"])
def test_losses_equal_those_of_one_process(
    tmp_path: Path, text: Path, processes: str, name: str, request: pytest.FixtureRequest
) -> None:
    """With dropout too: a lane has the same masks in any process."""
    run = request.getfixturevalue(processes) / name
    settings = COMPARED if name == "compared" else EVERYTHING
    alone = charlm.train(text, out=tmp_path / "alone", cache_dir=tmp_path / "cache", **settings).folder
    expected, actual = losses_of(alone), losses_of(run)
    assert len(expected) == 50
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    assert actual == pytest.approx(expected, rel=1e-4)
    validation = [entry["loss_validation"] for entry in entries(run) if "loss_validation" in entry]
    assert validation == pytest.approx(
        [entry["loss_validation"] for entry in entries(alone) if "loss_validation" in entry], rel=1e-4
    )
    mine, theirs = (runs.load_checkpoint(each, "latest").training_state for each in (alone, run))
    assert set(mine) == set(theirs)
    torch.testing.assert_close(theirs["recurrent_state.cell"], mine["recurrent_state.cell"], rtol=1e-2, atol=1e-3)


def results_of(run: Path) -> list[dict[str, Any]]:
    """What each process had in the end."""
    results = [json.loads(line) for line in (run.parent / "stdout").read_text().splitlines()]
    return [result for result in results if result["run"] == str(run)]


@pytest.mark.parametrize("name", ["compared", "everything", "whole", "half", "resumed"])
def test_all_processes_have_the_same_weights_in_the_end(two: Path, name: str) -> None:
    first, second = results_of(two / name)
    assert len(first["weights"]) == 1
    assert first["weights"] == second["weights"]


def test_all_processes_get_the_exact_loss_although_it_takes_longer_than_an_exchange_may(two: Path) -> None:
    losses = [result["loss"] for result in results_of(two / "compared")]
    assert losses == 2 * [entries(two / "compared")[-1]["loss_validation_exact"]]


def test_only_one_process_writes_and_prints(two: Path) -> None:
    assert len(list((two / "compared").glob("events.out.tfevents.*"))) == 1
    assert [entry["step"] for entry in entries(two / "compared") if "loss_train" in entry] == list(range(1, 51))
    printed = (two / "stderr").read_text()
    assert printed.count("Text: poem") == printed.count("2 processes") == printed.count("Before training") == 1


def test_resumed_run_of_two_processes_equals_uninterrupted(two: Path) -> None:
    assert_same_training(runs.load_checkpoint(two / "resumed"), runs.load_checkpoint(two / "whole"))


@pytest.mark.parametrize("processes", [1, 4])
def test_run_of_two_processes_resumes_with_another_number(
    two: Path, text: Path, tmp_path: Path, processes: int, request: pytest.FixtureRequest
) -> None:
    if processes == 4:
        run = request.getfixturevalue("four") / "half"
    else:
        run = shutil.copytree(two / "half", tmp_path / "half")
        charlm.train(text, resume=run, cache_dir=tmp_path / "cache", max_steps=12)
    resumed, whole = (runs.load_checkpoint(each, "latest") for each in (run, two / "whole"))
    assert resumed.model.step == whole.model.step == 12
    assert resumed.model.environment.processes == (None if processes == 1 else processes)
    for name, weight in whole.model.weights.items():
        torch.testing.assert_close(resumed.model.weights[name], weight, rtol=1e-3, atol=1e-4)


def test_processes_with_different_settings_are_refused_before_anything_is_written(four: Path) -> None:
    printed = (four / "stderr").read_text()
    assert "UsageError" in printed
    assert re.search(r"Process \d differs from process 0 in: .*hidden_size", printed)
    assert not (four / "refused").exists()


# How they end


@pytest.fixture
def long_run(text: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts a run that would not end by itself; kills it if the test does not end it."""
    started: list[subprocess.Popen[str]] = []

    def begin(*torchrun: str) -> subprocess.Popen[str]:
        options = [part for name, value in LONG.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        options += ["--resume", "auto", "--out", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
        started.append(start(2, "-m", "charlm", "train", text, *options, torchrun=torchrun))
        return started[-1]

    yield begin
    for process in started:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()
        process.communicate()


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], after: int = 0) -> int:
    """The first step that is saved after one."""
    for _ in range(int(MANY_SECONDS * 20)):
        assert process.poll() is None, process.communicate()[1]
        if (later := [step for step in steps_of(run) if step > after]) and (run / f"step-{later[0]:08}").exists():
            return later[0]
        time.sleep(0.05)
    raise AssertionError(f"nothing was saved after step {after}")


def worker(torchrun: subprocess.Popen[str], rank: int) -> psutil.Process:
    for child in psutil.Process(torchrun.pid).children():
        with suppress(psutil.NoSuchProcess):
            if child.environ().get("RANK") == str(rank):
                return child
    raise AssertionError(f"torchrun has no process {rank}")


def test_killed_process_restarts_all_and_ends_the_run_when_no_restart_is_left(long_run: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = long_run("--max-restarts", "1")
    saved = wait_for_checkpoint(run, torchrun)
    first = worker(torchrun, 1)
    first.kill()
    first.wait()
    wait_for_checkpoint(run, torchrun, after=max(steps_of(run)) + 1)  # which the next generation has saved
    worker(torchrun, 0).kill()
    _, stderr = torchrun.communicate(timeout=MANY_SECONDS)
    assert torchrun.returncode == 1
    assert stderr.count("lost the connection") == 2  # by process 0, then by process 1
    (resumed_at,) = re.findall(r"Resuming .* from step (\d+)", stderr)
    assert int(resumed_at) >= saved


def test_sigterm_to_torchrun_saves_once(long_run: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = long_run()
    wait_for_checkpoint(run, torchrun)
    torchrun.send_signal(signal.SIGTERM)
    _, stderr = torchrun.communicate(timeout=MANY_SECONDS)
    assert torchrun.returncode != 0
    (stopped,) = re.findall(r"Stopped after step (\d+); checkpoint saved", stderr)
    assert max(steps_of(run)) == int(stopped)
    assert runs.load_checkpoint(run, "latest").model.step == int(stopped)
