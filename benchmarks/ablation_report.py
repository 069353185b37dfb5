"""What each method is worth, as a table and a picture, from the lines that ``benchmarks/ablation.py`` wrote.

    python benchmarks/ablation_report.py --max-minutes 4 --picture docs/ablation.svg

A method of which there are lines stays in the table, with the commit that had it, even if charlm no longer has it.
"""

import argparse
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation import parse_budgets, read_lines
from matplotlib import rcParams
from matplotlib.figure import Figure

BASES = {"added": "old", "removed": "new"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    budgets, arguments = parse_budgets(parser)
    lines = read_lines(arguments.results)
    print(table(lines, budgets))
    if arguments.picture:
        arguments.picture.write_bytes(draw(lines, budgets))


@dataclass(frozen=True)
class Worth:
    """What a method is worth in nats, seed by seed, and how long a step takes, compared with that of the base."""

    nats: list[float]
    seconds_per_step: float
    commits: list[str]

    def __str__(self) -> str:
        text = f"{statistics.median(self.nats):+.4f}"
        return text if len(self.nats) == 1 else f"{text} ({min(self.nats):+.4f} to {max(self.nats):+.4f})"


def measure_worth(lines: Sequence[dict[str, Any]], budget: dict[str, Any], change: str, method: str) -> Worth | None:
    """How much lower the loss is with the method, for the seeds of which there are both runs; ``None``: for no seed.

    With several lines of a seed, the last one counts.
    """
    of_budget = [line for line in lines if line["budget"] == budget and line["base"] == BASES[change]]
    base = {line["seed"]: line for line in of_budget if not line["change"]}
    changed = {line["seed"]: line for line in of_budget if (line["change"], line["method"]) == (change, method)}
    seeds = sorted(base.keys() & changed.keys())
    if not seeds:
        return None
    sign = 1 if change == "added" else -1
    nats = [sign * (base[seed]["nats_per_character"] - changed[seed]["nats_per_character"]) for seed in seeds]
    ratios = [seconds_per_step(changed[seed]) / seconds_per_step(base[seed]) for seed in seeds]
    commits = list(dict.fromkeys(changed[seed]["commit"] for seed in seeds))
    return Worth(nats, statistics.median(ratios) ** sign, commits)


def seconds_per_step(line: dict[str, Any]) -> float:
    return float(line["training_seconds"] / line["steps"])


def table(lines: Sequence[dict[str, Any]], budgets: Sequence[dict[str, Any]]) -> str:
    """Positive numbers are nats that a method is worth: the median of the seeds, and the lowest and the highest."""
    columns = [(change, budget) for change in BASES for budget in budgets]
    heads = [f"{change} {'to' if change == 'added' else 'from'} {BASES[change]}, {_name(b)}" for change, b in columns]
    rows = [f"| method | {' | '.join(heads)} | time per step | commit |", "| --- " * (len(columns) + 3) + "|"]
    for method in methods_of(lines):
        found = [measure_worth(lines, budget, change, method) for change, budget in columns]
        cells = ["–" if worth is None else str(worth) for worth in found]
        times = ", ".join(f"{worth.seconds_per_step:.2f} ×" for worth in found[:1] if worth)
        commits = ", ".join(dict.fromkeys(commit for worth in found if worth for commit in worth.commits))
        rows.append(f"| {method} | {' | '.join(cells)} | {times or '–'} | {commits} |")
    return "\n".join(rows)


def methods_of(lines: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line["method"] for line in lines if line["method"]))


def _name(budget: dict[str, Any]) -> str:
    ((name, limit),) = budget.items()
    return f"{limit:g} minutes" if name == "max_minutes" else f"{limit:,} steps"


def draw(lines: Sequence[dict[str, Any]], budgets: Sequence[dict[str, Any]]) -> bytes:
    """The table as an SVG picture: bars are medians, lines go from the lowest to the highest seed."""
    rcParams["svg.hashsalt"] = "ablation"  # so that the same lines give the same file
    methods = methods_of(lines)
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(methods)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    for axes, change in zip(panels, BASES, strict=True):
        for number, budget in enumerate(budgets):
            found = [measure_worth(lines, budget, change, method) for method in methods]
            rows = [row for row, worth in enumerate(found) if worth]
            places = [row + (number + 0.5) / len(budgets) * 0.8 - 0.4 for row in rows]
            medians = [statistics.median(worth.nats) for worth in found if worth]
            axes.barh(places, medians, height=0.8 / len(budgets), color=f"C{number}", label=_name(budget))
            for place, worth in zip(places, filter(None, found), strict=True):
                axes.plot([min(worth.nats), max(worth.nats)], [place, place], color="black", linewidth=1)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{change} {'to the old' if change == 'added' else 'from the new'} default")
        axes.set_xlabel("lower loss with it (nats per character)")
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    panels[0].legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


if __name__ == "__main__":
    main()
