"""What a GPU does with charlm: the tests marked ``gpu``, the speed, a short training; ``make gpu`` writes the page.

On a machine without a GPU it says so, leaves the page alone and succeeds.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gpu.md"
TESTS_SECONDS, BENCH_SECONDS, TRAINING_SECONDS = 210, 120, 140  # together below 8 minutes
CHARLM = (sys.executable, "-m", "charlm")


def main() -> int:
    if not torch.cuda.is_available():
        print("This machine has no GPU that PyTorch can use: nothing was run, and docs/gpu.md stays as it is.")
        return 0
    began = time.monotonic()
    tests = run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"], TESTS_SECONDS)
    bench = run([*CHARLM, "bench", "--config", "large", "--rounds", "3", "--json", "--quiet"], BENCH_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "large"
        command = [*CHARLM, "train", "--config", "large", "--max-minutes", "1", "--out", str(place), "--quiet"]
        training = run(command, TRAINING_SECONDS)
        entries = metrics(place / "metrics.jsonl")
    results = {"tests": tests, "bench": bench, "training": training}
    PAGE.write_text(page(results, entries, time.monotonic() - began), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
    return int(any(result.returncode for result in results.values()))


def run(command: list[str], most_seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run a command in the checkout; one that takes too long is ended and has failed."""
    print("$", *command, flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=most_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"took more than {most_seconds:.0f} seconds")


def metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def page(results: "dict[str, subprocess.CompletedProcess[str]]", entries: list[dict[str, Any]], seconds: float) -> str:
    """The page with the results, including failures."""
    tests, bench = results["tests"], results["bench"]
    lines = [
        "# GPU tests",
        "",
        "This page is for anyone with a CUDA GPU. `make gpu` wrote it: it lists what was run on a GPU and the results.",
        "",
        f"{torch.cuda.get_device_name()}, driver and CUDA {torch.version.cuda}, PyTorch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.system()}; {seconds:.0f} seconds in all.",
        "",
        "## Tests",
        "",
        *(f"- {line.strip('= ')}" for line in tests.stdout.splitlines() if re.search(r"passed|failed|^FAILED", line)),
        "",
        "## Speed (`charlm bench --config large`)",
        "",
        *bench_table(bench.stdout),
        "",
        "## One minute of training (`charlm train --config large --max-minutes 1`)",
        "",
        *training_table(entries),
    ]
    for name, result in results.items():
        if result.returncode:
            tail = "\n".join((result.stderr or result.stdout).splitlines()[-20:])
            lines += ["", f"**Failed: {name}**, exit code {result.returncode}:", "", "```", tail, "```"]
    return "\n".join(lines) + "\n"


def bench_table(output: str) -> list[str]:
    try:
        found = json.loads(output)
    except ValueError:
        return ["No result."]
    rows = [
        f"| {what.removesuffix('_characters_per_second')} | {name} | {speed:,.0f} |"
        for what, speeds in found.items()
        if what.endswith("_characters_per_second")
        for name, speed in speeds.items()
    ]
    return ["| | | characters per second |", "| --- | --- | --- |", *rows]


def training_table(entries: list[dict[str, Any]]) -> list[str]:
    shown = ("loss_train", "loss_validation", "loss_validation_exact", "throughput_characters_per_second")
    last = {name: entry[name] for entry in entries for name in shown if name in entry}
    steps = max((entry["step"] for entry in entries), default=0)
    rows = [f"| `{name}` | {value:,.4g} |" for name, value in last.items()]
    return ["| | last value |", "| --- | --- |", f"| steps | {steps:,} |", *rows]


if __name__ == "__main__":
    sys.exit(main())
