"""Train presets several times; measure validation loss, time and memory.

    python benchmarks/presets.py data/tinyshakespeare.txt tiny default

Each finished run is one line in results/. Runs that are already there are not repeated, so an interrupted benchmark
continues with the missing ones. Prints the table of docs/benchmarks.md: medians, and the loss of each seed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("presets", nargs="+")
    arguments = parser.parse_args()
    path = RESULTS / f"presets-{arguments.text.stem}.jsonl"
    RESULTS.mkdir(exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(1, REPEATS + 1):
        for preset in arguments.presets:  # interleaved, so that a slow hour of the machine affects all presets
            if any(line["preset"] == preset and line["seed"] == seed for line in lines):
                continue
            lines.append(measure(arguments.text, preset, seed))
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


def measure(text: Path, preset: str, seed: int) -> dict[str, Any]:
    """One run of ``charlm train``, from start to end of the process."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.perf_counter()
        command = ["train", str(text), "--config", preset, "--seed", str(seed), "--out", str(run)]
        process = subprocess.Popen([sys.executable, "-m", "charlm", *command], stdout=subprocess.DEVNULL)
        _, status, usage = _wait(process)
        wall_seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"charlm {' '.join(command)} failed")
        entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        (checkpoint, *_) = sorted(run.glob("step-*"), reverse=True)
        config = json.loads((checkpoint / "config.json").read_text())
    bench = subprocess.run(
        [sys.executable, "-m", "charlm", "bench", "--config", "tiny", "--rounds", "3", "--json", "--quiet"],
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        "preset": preset,
        "seed": seed,
        "nats_per_character": [e for e in entries if "loss_validation_exact" in e][-1]["loss_validation_exact"],
        "training_seconds": round(config["progress"]["training_seconds"], 2),
        "wall_seconds": round(wall_seconds, 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
        "steps": config["step"],
        "matrix_gflops": {kind: round(speed) for kind, speed in json.loads(bench.stdout)["matrix_gflops"].items()},
        "environment": config["environment"],
        "settings": config["settings"],
    }


def _wait(process: "subprocess.Popen[bytes]") -> tuple[int, int, resource.struct_rusage]:
    return os.wait4(process.pid, 0)


def table(lines: list[dict[str, Any]]) -> str:
    rows = [
        "| preset | validation loss, nats per character | each seed | training time | wall time | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for preset in dict.fromkeys(line["preset"] for line in lines):
        runs = [line for line in lines if line["preset"] == preset]

        def median(name: str, runs: list[dict[str, Any]] = runs) -> float:
            return statistics.median(run[name] for run in runs)

        losses = ", ".join(f"{run['nats_per_character']:.4f}" for run in runs)
        rows.append(
            f"| `{preset}` | {median('nats_per_character'):.4f} | {losses} | {median('training_seconds'):.1f} s "
            f"| {median('wall_seconds'):.1f} s | {median('peak_memory_mb'):,.0f} MB |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
