"""The learning curves of several runs in one picture, drawn by matplotlib."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from charlm import runs
from charlm.errors import UsageError

LN2 = math.log(2)
FORMATS = ("png", "svg", "pdf")
X_LABELS = {"steps": "step", "characters": "characters trained on", "minutes": "minutes of training time"}


@dataclass
class Curve:
    """Points of one run: ``x`` in the unit of the horizontal axis, losses in nats. ``unit``: what a character is."""

    label: str
    unit: str = "character"
    train: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[float, float]] = field(default_factory=list)


def read_curve(run: Path, x_axis: str) -> Curve:
    """The curve of a run against ``steps``, ``characters`` or ``minutes``, from its ``metrics.jsonl``.

    Raises ``UsageError`` if it is not a run, or nothing was logged.
    """
    folder = runs.run_folder_of(run)
    if not runs.is_run(folder):
        raise UsageError(f"{run}: not a run.", "Pass a run folder, for example checkpoints/NAME.")
    curve = Curve(folder.name or str(folder))
    steps, places = [0.0], [0.0]  # of log entries; evaluations lie between them
    evaluations: list[tuple[float, float]] = []
    characters = last_seconds = 0.0
    for entry in runs.read_json_lines(folder / runs.METRICS):
        if "loss_validation" in entry:
            evaluations.append((entry["step"], entry["loss_validation"]))
        if "loss_train" not in entry:
            continue
        curve.unit = "byte" if "bits_per_byte_train" in entry else "character"
        seconds = entry["progress_training_seconds"]
        characters += (seconds - last_seconds) * entry[f"throughput_{curve.unit}s_per_second"]
        last_seconds = seconds
        steps.append(entry["step"])
        places.append({"steps": entry["step"], "characters": characters, "minutes": seconds / 60}[x_axis])
        curve.train.append((places[-1], entry["loss_train"]))
    for step, loss in evaluations:
        curve.validation.append((step if x_axis == "steps" else float(np.interp(step, steps, places)), loss))
    if not curve.train and not curve.validation:
        raise UsageError(f"{run}: nothing has been logged yet.", "Train for some more steps first.")
    return curve


def draw_learning_curves(curves: Sequence[Curve], x_axis: str, picture_format: str) -> bytes:
    """A picture with the loss in nats on the left and in bits on the right, one color for each run.

    Raises ``UsageError`` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise UsageError("charlm plot needs matplotlib.", "Install it: pip install matplotlib") from None
    unit = curves[0].unit
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    handles = []
    for number, curve in enumerate(curves):
        color = f"C{number % 10}"
        if curve.train:
            axes.plot(*zip(*curve.train, strict=True), color=color, linewidth=1, alpha=0.45)
        if curve.validation:
            axes.plot(*zip(*curve.validation, strict=True), color=color, linewidth=2, marker="o", markersize=4)
        handles.append(Line2D([], [], color=color, linewidth=2, label=curve.label))
    handles.append(Line2D([], [], color="gray", linewidth=2, marker="o", markersize=4, label="validation"))
    handles.append(Line2D([], [], color="gray", linewidth=1, alpha=0.45, label="training"))
    axes.legend(handles=handles, frameon=False)
    axes.set_ylim(*_limits(curves))
    axes.set_xlim(left=0)
    axes.set_xlabel(X_LABELS[x_axis])
    axes.set_ylabel(f"loss (nats per {unit})")
    conversions: Any = (lambda nats: nats / LN2, lambda bits: bits * LN2)  # numbers or arrays of them
    axes.secondary_yaxis("right", functions=conversions).set_ylabel(f"bits per {unit}")
    axes.grid(alpha=0.25)
    axes.spines["top"].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format=picture_format, dpi=160)
    return file.getvalue()


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """From below the lowest loss to where the curves come from: the steep start is cut off, so that the end shows."""
    losses = [loss for curve in curves for _, loss in (*curve.train, *curve.validation)]
    ends = [points[-1][1] for curve in curves for points in (curve.train, curve.validation) if points]
    low, high = min(losses), max(losses)
    top = min(high, low + 3 * max(max(ends) - low, 0.25))
    margin = 0.05 * (top - low) or 0.05
    return low - margin, top + margin
