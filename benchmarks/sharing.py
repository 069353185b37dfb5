"""Training speed while the machine does something else too: alone, beside a busy loop, a second run, sample, and eval.

    python benchmarks/sharing.py TEXT

Real ``charlm`` commands with the default preset, each situation in turns with the others, medians over the rounds. In
each, the speed is that of the ``--seconds`` after the other work begins, so that the time it takes to notice it counts.
The second column is the same with torch's own number of threads and OpenMP's own waiting. One line per round is added
to ``results/sharing.jsonl``.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from charlm.checkpoint.environment import describe_environment
from charlm.runs import read_json_lines

RESULTS = Path(__file__).parent / "results" / "sharing.jsonl"
CHARLM = [sys.executable, "-m", "charlm"]
ADAPTIVE: dict[str, str] = {}
TORCH_DEFAULT = {"CHARLM_TRAIN_THREADS": str(psutil.cpu_count()), "GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
SETTLE_SECONDS = 20.0  # for a run to take all its threads again
EVALUATED_CHARACTERS = 50_000
Work = Callable[[], object]


class Training:
    """A run in a process of its own, whose speed is read from its metrics."""

    def __init__(self, text: Path, run: Path, variables: dict[str, str]) -> None:
        self.metrics = run / "metrics.jsonl"
        options = ["--out", run, "--max-minutes", "60", "--evaluate-every", "1000000", "--log-every", "5", "--quiet"]
        self.process = start("train", text, *options, variables=variables)
        while not self.entries():
            assert self.process.poll() is None
            time.sleep(0.1)

    def entries(self) -> list[dict[str, Any]]:
        entries = read_json_lines(self.metrics) if self.metrics.exists() else ()
        return [entry for entry in entries if "throughput_characters_per_second" in entry]

    def measure(self, seconds: float) -> float:
        """Characters per second of training time, from now on."""
        before = self.entries()[-1]
        time.sleep(seconds)
        after = self.entries()[-1]
        characters = (after["step"] - before["step"]) * 32 * 64  # of the default preset
        return characters / max(seconds, after["progress_training_seconds"] - before["progress_training_seconds"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start(*arguments: object, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
    nothing = subprocess.DEVNULL
    return subprocess.Popen([*CHARLM, *map(str, arguments)], env=environment, stdout=nothing, stderr=nothing)


@contextmanager
def busy_loop() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def repeated(command: Work, seconds: list[float]) -> Iterator[None]:
    """``command`` over and over, in a thread; how long each took goes to ``seconds``."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            started_at = time.perf_counter()
            command()
            seconds.append(time.perf_counter() - started_at)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure_round(text: Path, folder: Path, seconds: float, variables: dict[str, str]) -> dict[str, float]:
    """Characters per second in each situation, and the seconds that sample and eval take, alone and beside a run."""
    other, shorter = folder / "other", folder / "shorter.txt"
    if not other.exists():
        shorter.write_text(text.read_text(encoding="utf-8", errors="replace")[:EVALUATED_CHARACTERS], encoding="utf-8")
        start("train", text, "--out", other, "--max-steps", "20", "--quiet", variables=variables).wait()
    commands = {
        "sample": lambda: start("sample", other, "--length", "20000", "--seed", "1", variables=variables).wait(),
        "eval": lambda: start("eval", other, shorter, "--quiet", variables=variables).wait(),
    }
    result: dict[str, float] = {}
    for name, command in commands.items():
        started_at = time.perf_counter()
        command()
        result[f"{name}_seconds_alone"] = time.perf_counter() - started_at
    run = folder / f"run-{time.monotonic_ns()}"
    training = Training(text, run, variables)
    try:
        result["alone"] = training.measure(seconds)
        with busy_loop():
            result["busy_loop"] = training.measure(seconds)
        time.sleep(SETTLE_SECONDS)
        result["after_busy_loop"] = training.measure(seconds)
        for name, command in commands.items():
            took: list[float] = []
            with repeated(command, took):
                result[name] = training.measure(seconds)
            result[f"{name}_seconds_beside_training"] = statistics.median(took)
            time.sleep(SETTLE_SECONDS)
        second = Training(text, folder / f"{run.name}-second", variables)
        try:
            speeds: list[float] = []
            thread = threading.Thread(target=lambda: speeds.append(second.measure(seconds)))
            thread.start()
            result["two_runs"] = training.measure(seconds)
            thread.join()
            result["two_runs"] += speeds[0]
        finally:
            second.stop()
    finally:
        training.stop()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    columns: dict[str, list[dict[str, float]]] = {"charlm": [], "torch": []}
    with tempfile.TemporaryDirectory() as folder, RESULTS.open("a", encoding="utf-8") as results:
        for number in range(options.rounds):
            for name, variables in (("charlm", ADAPTIVE), ("torch", TORCH_DEFAULT)):
                result = measure_round(options.text, Path(folder), options.seconds, variables)
                columns[name].append(result)
                environment = describe_environment(torch.device("cpu"), "auto").model_dump()
                record = {"threads": name, "round": number, **result, "environment": environment}
                results.write(json.dumps(record) + "\n")
                results.flush()
                print(record, file=sys.stderr)
    print_table(columns)


def print_table(columns: dict[str, list[dict[str, float]]]) -> None:
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in columns.items()
    }
    print("| | charlm | of alone | torch's default | of alone |\n| --- | --- | --- | --- | --- |")
    for key in ("alone", "busy_loop", "after_busy_loop", "two_runs", "sample", "eval"):
        cells = [f"{m[key]:,.0f} | {m[key] / m['alone']:.2f}" for m in medians.values()]
        print(f"| {key} | {' | '.join(cells)} |")
    for key in ("sample", "eval"):
        cells = [
            f"{m[f'{key}_seconds_alone']:.1f} → {m[f'{key}_seconds_beside_training']:.1f} s | "
            f"{m[f'{key}_seconds_beside_training'] / m[f'{key}_seconds_alone']:.2f}×"
            for m in medians.values()
        ]
        print(f"| {key}: its own time | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
