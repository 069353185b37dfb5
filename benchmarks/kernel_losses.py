"""Train presets with the native kernels and with PyTorch's: the validation losses should differ no more than seeds do.

    python benchmarks/kernel_losses.py data/tinyshakespeare.txt tiny default

Five seeds with PyTorch's kernels and three with the native ones, in fp32 or as --precision says. Each finished run is
one line in results/, and is not repeated. Prints the table of docs/benchmarks.md: how far each loss
of the native kernels is from the mean of PyTorch's, in standard deviations of PyTorch's seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "kernel-losses.jsonl"
SEEDS = {"torch": 5, "native": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for preset in arguments.presets:
        for seed in range(1, max(SEEDS.values()) + 1):
            for kernel in (kernel for kernel, count in SEEDS.items() if seed <= count):
                key = {"preset": preset, "precision": arguments.precision, "kernel": kernel, "seed": seed}
                if any(key.items() <= line.items() for line in lines):
                    continue
                lines.append(key | measure(arguments.text, key, arguments.threads))
                with RESULTS.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table([line for line in lines if line["precision"] == arguments.precision]))


def measure(text: Path, key: dict[str, Any], threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = [*("--config", key["preset"]), *("--seed", str(key["seed"])), *("--kernel", key["kernel"])]
        options += ["--precision", key["precision"], "--threads", str(threads), "--out", str(run)]
        command = [sys.executable, "-m", "charlm", "train", str(text), *options]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        (checkpoint, *_) = sorted(run.glob("step-*"), reverse=True)
        config = json.loads((checkpoint / "config.json").read_text())
    return {
        "nats_per_character": [e for e in entries if "loss_validation_exact" in e][-1]["loss_validation_exact"],
        "training_seconds": round(config["progress"]["training_seconds"], 2),
        "steps": config["step"],
        "environment": config["environment"],
    }


def table(lines: list[dict[str, Any]]) -> str:
    rows = ["| preset | PyTorch's kernels, mean ± standard deviation | native: loss of each seed, distance |"]
    rows.append("| --- | --- | --- |")
    for preset in dict.fromkeys(line["preset"] for line in lines):
        losses = {
            kernel: [
                line["nats_per_character"] for line in lines if (line["preset"], line["kernel"]) == (preset, kernel)
            ]
            for kernel in SEEDS
        }
        if len(losses["torch"]) < 2 or not losses["native"]:
            continue
        mean, deviation = statistics.mean(losses["torch"]), statistics.stdev(losses["torch"])
        native = ", ".join(f"{loss:.4f} ({(loss - mean) / deviation:+.1f})" for loss in losses["native"])
        rows.append(f"| `{preset}` | {mean:.4f} ± {deviation:.4f} ({len(losses['torch'])} seeds) | {native} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
