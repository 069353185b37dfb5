"""Training with several processes: their speed against that of threads, and their validation loss against one's.

    python benchmarks/ranks.py data/tinyshakespeare.txt speed
    python benchmarks/ranks.py data/tinyshakespeare.txt loss

``speed``: one process with one thread, one with two, and two with one thread each, in turns; medians over the rounds.
The bytes are what the loopback device carries in both directions during a run, divided by its steps. ``loss``: the
preset ``tiny`` with one process and with two, for five seeds. Each run is a line of ``results/ranks.jsonl``; those of
``loss`` that are already there are not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from charlm.runs import read_json_lines

RESULTS = Path(__file__).parent / "results" / "ranks.jsonl"
WAYS = {"1 × 1": (1, 1), "1 × 2": (1, 2), "2 × 1": (2, 1)}  # processes × threads of each
SHAPES: dict[str, dict[str, int]] = {
    "tiny (1 × 256), windows of 32": {"num_layers": 1, "hidden_size": 256, "sequence_length": 32},
    "2 × 128": {"hidden_size": 128},
    "default (2 × 384)": {},
    "2 × 384, windows of 256": {"sequence_length": 256},
    "2 × 384, batch size 128": {"batch_size": 128},
    "2 × 1024": {"hidden_size": 1024},
}
SECONDS = 10.0  # of training time for each run of ``speed``
SEEDS = range(1, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("what", choices=["speed", "loss"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        print(describe_speed(measure_speed(arguments.text, arguments.rounds)))
    else:
        print(describe_losses(measure_losses(arguments.text)))


def measure_speed(text: Path, rounds: int) -> list[dict[str, Any]]:
    lines = []
    for _ in range(rounds):
        for shape, settings in SHAPES.items():
            for way, (processes, threads) in WAYS.items():
                options = {**settings, "threads": threads, "max_minutes": SECONDS / 60, "max_steps": 0}
                options |= {
                    "log_every": 1,
                    "evaluate_every": 1_000_000,
                    "sample_length": 0,
                    "validation_fraction": 0.01,
                }
                before = carried_bytes()
                entries, config = train(text, processes, "default", options)
                speeds = [entry["throughput_characters_per_second"] for entry in entries if "loss_train" in entry]
                lines.append(
                    {
                        "kind": "speed",
                        "shape": shape,
                        "way": way,
                        "characters_per_second": round(statistics.median(speeds)),
                        "bytes_per_step": round((carried_bytes() - before) / config["step"]),
                        "environment": config["environment"],
                    }
                )
                append(lines[-1])
    return lines


def measure_losses(text: Path) -> list[dict[str, Any]]:
    lines = [line for line in read_lines() if line["kind"] == "loss"]
    for seed in SEEDS:
        for processes in (1, 2):
            if any((line["seed"], line["processes"]) == (seed, processes) for line in lines):
                continue
            entries, config = train(text, processes, "tiny", {"seed": seed, "threads": 1})
            loss = entries[-1]["loss_validation_exact"]
            lines.append({"kind": "loss", "seed": seed, "processes": processes, "nats_per_character": loss})
            lines[-1]["environment"] = config["environment"]
            append(lines[-1])
    return lines


def train(
    text: Path, processes: int, preset: str, settings: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The metrics and the last checkpoint's ``config.json`` of a run."""
    options = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), str(value))]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, *(several if processes > 1 else []), "-m", "charlm", "train", str(text)]
        command += ["--config", preset, "--device", "cpu", "--out", str(run), "--quiet", *options]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        (checkpoint, *_) = sorted(run.glob("step-*"), reverse=True)
        return list(read_json_lines(run / "metrics.jsonl")), json.loads((checkpoint / "config.json").read_text())


def carried_bytes() -> int:
    """What the loopback device has carried."""
    devices = psutil.net_io_counters(pernic=True)
    return sum(counters.bytes_sent for name, counters in devices.items() if name.startswith("lo"))


def describe_speed(lines: list[dict[str, Any]]) -> str:
    rows = ["| model | " + " | ".join(WAYS) + " | bytes per step |", "| --- |" + " ---: |" * (len(WAYS) + 1)]
    for shape in SHAPES:
        of_shape = [line for line in lines if line["shape"] == shape]
        speeds = [
            statistics.median(line["characters_per_second"] for line in of_shape if line["way"] == way) for way in WAYS
        ]
        exchanged = statistics.median(line["bytes_per_step"] for line in of_shape if line["way"] == "2 × 1")
        rows.append(f"| {shape} | " + " | ".join(f"{speed:,.0f}" for speed in speeds) + f" | {exchanged:,.0f} |")
    return "\n".join(rows)


def describe_losses(lines: list[dict[str, Any]]) -> str:
    losses = {
        processes: [line["nats_per_character"] for line in lines if line["processes"] == processes]
        for processes in (1, 2)
    }
    rows = ["| processes | mean | standard deviation | each seed |", "| --- | ---: | ---: | --- |"]
    for processes, values in losses.items():
        each = ", ".join(f"{value:.4f}" for value in values)
        rows.append(f"| {processes} | {statistics.mean(values):.4f} | {statistics.stdev(values):.4f} | {each} |")
    differences = [abs(one - two) for one, two in zip(*losses.values(), strict=True)]
    return "\n".join([*rows, f"Largest difference of a seed: {max(differences):.1e}"])


def read_lines() -> list[dict[str, Any]]:
    return list(read_json_lines(RESULTS)) if RESULTS.exists() else []


def append(line: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
