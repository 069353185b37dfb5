"""Training output: progress bar, TensorBoard and ``metrics.jsonl``, all with the same metrics."""

import json
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm import files
from charlm.config import TrainSettings
from charlm.console import announce, console, is_watched, open_bar
from charlm.corpus.vocabulary import SHORT_UNITS
from charlm.errors import CharlmWarning, pluralize
from charlm.generation.escaping import escape_control_characters
from charlm.runs import METRICS
from charlm.training.internals import Internals
from charlm.training.lines import SparseLines
from charlm.training.tensorboard import TensorBoardLogger

if TYPE_CHECKING:
    from tqdm import tqdm

LN2 = math.log(2)


class Monitor:
    """Shows and records metrics. With ``quiet``, nothing is shown, but everything is recorded.

    ``is_silent``: neither; another process does both.
    """

    def __init__(
        self, run: Path, settings: TrainSettings, parameters: int, quiet: bool, is_silent: bool = False
    ) -> None:
        self.quiet = quiet or is_silent
        self.is_silent = is_silent
        self.unit = settings.unit
        self.bar: tqdm[Any] | None = None
        self.training_text = self.validation_text = self.speed_text = ""
        self.run = run
        self.tensorboard = TensorBoardLogger(run)
        self.metrics_failed = False
        self.lines = SparseLines()
        self.settings, self.parameters = settings, parameters
        self.total_steps = 0

    def start(self, first_step: int, total_steps: int) -> None:
        """Open TensorBoard's file and the progress bar, which shows percent if ``total_steps`` is 0 (unknown)."""
        self._open_tensorboard(first_step)
        self.total_steps = total_steps
        self.lines.start()
        if not self.quiet and is_watched():
            self.bar = open_bar(
                total=total_steps or 100,
                initial=first_step if total_steps else 0,
                bar_format="{percentage:3.0f}%|{bar}| {desc} {remaining} left",
                dynamic_ncols=True,
                ascii=_needs_ascii() or None,
            )

    def log_step(self, step: int, progress: float, metrics: dict[str, float]) -> None:
        """Log an entry: mean loss since the last one, learning rate, gradient norm, speed, training time."""
        self._record(step, metrics)
        loss, speed = metrics["loss/train"], metrics[f"throughput/{self.unit}s_per_second"]
        total = f"/{self.total_steps}" if self.total_steps else ""
        self.training_text = f"step {step}{total} train {loss:.3f}"
        self.speed_text = f" {_abbreviate(speed)} {SHORT_UNITS[self.unit]}s/s"
        if self.bar is not None:
            self.bar.n = step if self.total_steps else round(100 * min(progress, 1.0))
            self._update_bar()
        elif self.lines.is_due(progress >= 1):
            time_left = self.lines.time_left(progress)
            self._print(self.training_text + self.validation_text + self.speed_text + time_left)

    def log_initial_loss(self, loss: float, vocabulary_size: int) -> None:
        """Show the loss of the untrained model, which is close to uniform guessing. Not recorded."""
        uniform = f"uniform guessing over {pluralize(vocabulary_size, self.unit)}: {math.log(vocabulary_size):.3f}"
        self.print_line(f"Before training: validation {loss:.3f} ({uniform}).")

    def log_threads(self, step: int, threads: int) -> None:
        """Record a change of the number of threads, because the load of other programs changed."""
        self._append(step, {"threads": threads})

    def log_gap(self, step: int, seconds: float) -> None:
        """Record that the process was stopped during this step."""
        self._append(step, {"stopped_seconds": seconds})
        self.print_line(f"Stopped for {seconds:,.0f} seconds before step {step}; they do not count as training time.")

    def log_evaluation(self, step: int, loss: float) -> None:
        self._record(step, {"loss/validation": loss, f"bits_per_{self.unit}/validation": loss / LN2})
        self.validation_text = f" val {loss:.3f} ({loss / LN2:.2f} bits)"
        if self.bar is not None:
            self._update_bar()

    def log_internals(self, step: int, internals: Internals) -> None:
        """Shown in TensorBoard only."""
        self.tensorboard.log_scalars(step, internals.numbers)
        self.tensorboard.log_histograms(step, internals.distributions)

    def log_final_loss(self, step: int, loss: float) -> None:
        """Log the exact loss of the best checkpoint: one number per run, so TensorBoard gets text instead of a plot."""
        self.tensorboard.log_text(step, "exact validation", f"{loss:.4f} nats, {loss / LN2:.4f} bits per {self.unit}")
        self._append(step, {"loss_validation_exact": loss, f"bits_per_{self.unit}_validation_exact": loss / LN2})

    def log_sample(self, step: int, text: str) -> None:
        self.tensorboard.log_preformatted(step, "sample", text)
        if self.bar is None and not self.lines.is_sample_due():
            return
        shown = escape_control_characters(text.strip()) if console.isatty() else text.strip()
        self._print(f"--- sample at step {step}\n{shown}\n---")

    def print_line(self, text: str) -> None:
        """Print a message above the progress bar."""
        announce(text, self.quiet)

    def _print(self, text: str) -> None:
        """Print progress, unless quiet."""
        if not self.quiet:
            console.print_line(text)

    def _open_tensorboard(self, step: int) -> None:
        if self.is_silent:
            return
        self.tensorboard.start(step)
        if not step:
            self.tensorboard.log_settings(self.settings, self.parameters)

    def _update_bar(self) -> None:
        assert self.bar is not None
        self.bar.set_description_str(self.training_text + self.validation_text + self.speed_text)

    def restart(self, step: int) -> None:
        """Training rolled back to ``step``: purge later steps from TensorBoard."""
        self.tensorboard.close()
        self._open_tensorboard(step)

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def close(self) -> None:
        self.close_bar()
        self.tensorboard.close()

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        self.tensorboard.log_scalars(step, metrics)
        self._append(step, {tag.replace("/", "_"): value for tag, value in metrics.items()})

    def _append(self, step: int, entry: dict[str, float]) -> None:
        if self.metrics_failed or self.is_silent:
            return
        try:
            files.append_line(self.run / METRICS, json.dumps({"step": step, **entry}))
        except OSError as error:
            self.metrics_failed = True
            reason = error.strerror or error
            warnings.warn(
                f"{self.run / METRICS}: cannot be written: {reason}. Training continues.", CharlmWarning, stacklevel=2
            )


def _abbreviate(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"


def _needs_ascii() -> bool:
    """Whether the terminal may not support the bar's block characters."""
    return "utf" not in console.encoding.lower() or os.environ.get("TERM") == "dumb"
