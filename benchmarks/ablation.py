"""What each method is worth: added alone to the default of charlm 0.1.0, and removed alone from the present one.

    python benchmarks/ablation.py data/tinyshakespeare.txt --max-minutes 4
    python benchmarks/ablation_report.py --max-minutes 4 --picture docs/ablation.svg

Trains what is missing; each finished run is one line in results/ and is never repeated, so it can be interrupted. With
``--max-minutes``, all runs train equally long; with ``--max-steps``, they take equally many steps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charlm.config import (
    SETTINGS_ADDED_LATER,
    STOP_LIMITS,
    SettingsSource,
    TrainSettings,
    choose_automatic,
    preset_path,
    resolve,
    to_toml,
)

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ablation.jsonl"
OLD = HERE / "default-0.1.0.toml"
TRAINING_SHARE = 0.9
FIXED = {  # the last 5% of the text are never looked at
    "validation_fraction": 0.05,
    "test_fraction": 0.05,
    "log_internals": False,
    "sample_length": 0,
}
METHODS: dict[str, dict[str, Any]] = {  # settings that make it up, with the values to add where the default has none
    "Muon": {"optimizer": "muon", "muon_learning_rate": 0.02},
    "averaged weights": {"average_decay": 0.999},
    "warmup, stable, decay": {"schedule": "wsd", "decay_fraction": 0.2},
    "locked dropout": {"locked_dropout": True},
    "input dropout": {"input_dropout": 0.1},
    "embedding dropout": {"embedding_dropout": 0.05},
    "weight dropout": {"weight_dropout": 0.2},
    "varying window lengths": {"length_variation": 0.5},
    "random resets": {"reset_probability": 0.01},
}


@dataclass(frozen=True)
class Experiment:
    """``change``: what was done with ``method`` to the settings of ``base``; both are empty for the base itself."""

    base: str
    change: str
    method: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return self.base if not self.change else f"{self.base}, {self.method} {self.change}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--new", default="default", help="preset or TOML file whose methods are removed")
    parser.add_argument("--seeds", type=int, default=3)
    budgets, arguments = parse_budgets(parser)
    old, new = read_settings(OLD, arguments.text), read_settings(preset_path(arguments.new), arguments.text)
    run_missing(arguments.text, list(make_experiments(old, new)), budgets, arguments.seeds, arguments.results)


def parse_budgets(parser: argparse.ArgumentParser) -> tuple[list[dict[str, Any]], argparse.Namespace]:
    """The options that both commands have: each limit is a budget of its own."""
    parser.add_argument("--max-minutes", type=float, default=0.0)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    given = {"max_steps": arguments.max_steps, "max_minutes": arguments.max_minutes}
    if not any(given.values()):
        parser.error("--max-minutes or --max-steps must be greater than 0")
    return [{name: limit} for name, limit in given.items() if limit], arguments


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def read_settings(path: Path, text: Path) -> dict[str, Any]:
    """All settings of a preset for this text. What it does not mention is as it was in 0.1.0."""
    automatic = choose_automatic(int(len(text.read_text(encoding="utf-8")) * TRAINING_SHARE))
    sources = [SettingsSource("0.1.0", SETTINGS_ADDED_LATER), SettingsSource.file(path), SettingsSource("fixed", FIXED)]
    return resolve(TrainSettings, sources, automatic).model_dump()


def make_experiments(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Experiment]:
    """Both bases; every method added to the old one, as the new one has it if it does; each that it has, removed."""
    yield Experiment("old", "", "", old)
    for method, values in METHODS.items():
        values_in_new = {name: new[name] for name in values}
        is_in_new = values_in_new != {name: old[name] for name in values}
        yield Experiment("old", "added", method, {**old, **(values_in_new if is_in_new else values)})
    if new == old:
        return
    yield Experiment("new", "", "", new)
    for method, values in METHODS.items():
        without = {**new, **{name: old[name] for name in values}}
        if without != new:
            yield Experiment("new", "removed", method, without)


def run_missing(
    text: Path,
    experiments: Sequence[Experiment],
    budgets: Sequence[dict[str, Any]],
    seeds: int,
    results: Path,
) -> None:
    """Seed by seed, so that a slow hour of the machine affects all experiments and there is a first result early."""
    finished = {identify(line) for line in read_lines(results)}
    for seed in range(1, seeds + 1):
        for budget in budgets:
            for experiment in experiments:
                limits = {**dict.fromkeys(STOP_LIMITS, 0), **budget}
                settings = TrainSettings(**{**experiment.settings, **limits, "seed": seed})
                about = {
                    "text": text.stem,
                    "base": experiment.base,
                    "change": experiment.change,
                    "method": experiment.method,
                    "budget": budget,
                    "seed": seed,
                    "settings": settings.model_dump(),
                }
                if identify(about) in finished:
                    continue
                print(f"{experiment.name}, seed {seed}, {budget}", file=sys.stderr, flush=True)
                line = {**about, **train(text, settings)}
                results.parent.mkdir(exist_ok=True)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def identify(line: dict[str, Any]) -> str:
    """What makes a run the same: the text, its place in the table, and its settings, which have seed and budget.

    Settings that charlm got after the line was written, or no longer has, make no difference.
    """
    settings = {**SETTINGS_ADDED_LATER, **line["settings"]}
    known = [settings.get(name) for name in TrainSettings.model_fields]
    return json.dumps([*(line[name] for name in ("text", "base", "change", "method")), known])


def train(text: Path, settings: TrainSettings) -> dict[str, Any]:
    """One run of ``charlm train``, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run, config = Path(folder) / "run", Path(folder) / "settings.toml"
        config.write_text(to_toml(settings), encoding="utf-8")
        command = ["train", str(text), "--config", str(config), "--out", str(run), "--quiet"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "charlm", *command], stdout=subprocess.DEVNULL, check=True)
        wall_seconds = time.perf_counter() - began
        entries = read_lines(run / "metrics.jsonl")
        saved = json.loads((max(run.glob("step-*")) / "config.json").read_text(encoding="utf-8"))
    return {
        "nats_per_character": [e for e in entries if "loss_validation_exact" in e][-1]["loss_validation_exact"],
        "steps": saved["step"],
        "training_seconds": saved["progress"]["training_seconds"],
        "wall_seconds": wall_seconds,
        "curve": make_curve(entries, saved["step"], saved["progress"]["training_seconds"]),
        "commit": describe_commit(),
        "environment": saved["environment"],
    }


def make_curve(
    entries: Sequence[dict[str, Any]], last_step: int, last_seconds: float
) -> list[tuple[int, float, float]]:
    """Step, training seconds and validation loss of each evaluation. Times are logged between evaluations."""
    logged = [(entry["step"], entry["progress_training_seconds"]) for entry in entries if "loss_train" in entry]
    steps, seconds = zip((0, 0.0), *logged, (last_step, last_seconds), strict=True)
    return [
        (entry["step"], float(np.interp(entry["step"], steps, seconds)), entry["loss_validation"])
        for entry in entries
        if "loss_validation" in entry
    ]


def describe_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
