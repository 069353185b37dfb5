"""What people see of a training: the progress bar, TensorBoard and ``metrics.jsonl``, all with the same figures."""

import html
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from charlm import files
from charlm.config import SECTIONS, TrainSettings
from charlm.runs import METRICS

LN2 = math.log(2)
TOGETHER = {  # the page of TensorBoard that shows training and validation in one picture
    "Training and validation": {
        "bits per character": ["Multiline", ["bits_per_character/train$", "bits_per_character/validation$"]],
        "loss (nats per character)": ["Multiline", ["loss/train$", "loss/validation$"]],
    }
}


class Monitor:
    """Shows and records figures. ``quiet`` shows nothing; what is recorded stays the same."""

    def __init__(self, run: Path, settings: TrainSettings, parameters: int, quiet: bool, first_step: int = 0) -> None:
        self.quiet = quiet
        self.bar: tqdm[Any] | None = None
        self.training_text = self.validation_text = self.speed_text = ""
        self.metrics = files.open_for_appending(run / METRICS)
        # TensorBoard drops figures of later steps at a restart, which is any start but the first: so the first says so
        self.board = SummaryWriter(str(run), purge_step=first_step + 1 if first_step else 0, flush_secs=10)
        if not first_step:
            self._describe(settings, parameters)

    def start(self, first_step: int, total_steps: int) -> None:
        """Show the bar. ``total_steps`` 0: not known beforehand, the bar then shows hundredths."""
        self.total_steps = total_steps
        if not self.quiet and sys.stderr.isatty():
            total = total_steps or 100
            layout = "{percentage:3.0f}%|{bar}| {desc} {remaining} left"
            self.bar = tqdm(total=total, initial=0, bar_format=layout, dynamic_ncols=True, ascii=_plain() or None)
            self.bar.n = first_step if total_steps else 0

    def training(self, step: int, progress: float, figures: dict[str, float]) -> None:
        """A log point: the mean loss since the last one, learning rate, gradient norm, speed, time spent training."""
        self._record(step, figures)
        loss, speed = figures["loss/train"], figures["throughput/characters_per_second"]
        of = f"/{self.total_steps}" if self.total_steps else ""
        self.training_text = f"step {step}{of} train {loss:.3f}"
        self.speed_text = f" {_short(speed)} chars/s"
        if self.bar is not None:
            self.bar.n = step if self.total_steps else round(100 * min(progress, 1.0))
            self._show()
        else:
            self.say(self.training_text + self.validation_text + self.speed_text)

    def before_learning(self, loss: float, vocabulary_size: int) -> None:
        """What the untrained model makes of the text: about what guessing would. Shown, not recorded."""
        even = math.log(vocabulary_size)
        self.say(
            f"Before learning: validation {loss:.3f}; guessing evenly among {vocabulary_size} would be {even:.3f}."
        )

    def evaluation(self, step: int, loss: float) -> None:
        self._record(step, {"loss/validation": loss, "bits_per_character/validation": loss / LN2})
        self.validation_text = f" val {loss:.3f} ({loss / LN2:.2f} bits)"
        if self.bar is None:
            self.say(f"step {step}: validation {loss:.3f} ({loss / LN2:.2f} bits)")
        else:
            self._show()

    def exact(self, step: int, loss: float) -> None:
        """The figure of the best checkpoint: one number a run, so no picture in TensorBoard but a line of text."""
        self.board.add_text("exact validation", f"{loss:.4f} nats, {loss / LN2:.4f} bits per character", step)
        self._append(step, {"loss_validation_exact": loss, "bits_per_character_validation_exact": loss / LN2})

    def sample(self, step: int, text: str) -> None:
        self.board.add_text("sample", f"<pre>{html.escape(text)}</pre>", step)
        self.say(f"--- a sample after step {step}\n{text.strip()}\n---")

    def say(self, text: str) -> None:
        """A line for people, above the bar."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def _show(self) -> None:
        assert self.bar is not None
        self.bar.set_description_str(self.training_text + self.validation_text + self.speed_text)

    def close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def close(self) -> None:
        self.close_bar()
        self.board.close()
        self.metrics.close()

    def _record(self, step: int, figures: dict[str, float]) -> None:
        for tag, value in figures.items():
            self.board.add_scalar(tag, value, step)
        self._append(step, {tag.replace("/", "_"): value for tag, value in figures.items()})

    def _append(self, step: int, entry: dict[str, float]) -> None:
        self.metrics.write(json.dumps({"step": step, **entry}) + "\n")

    def _describe(self, settings: TrainSettings, parameters: int) -> None:
        """Settings as a table, as hyperparameters, and the page of pictures: once, at the start of a run."""
        values = settings.model_dump()
        rows = [
            f"| {section} | `{name}` | `{values[name]}` |"
            for section, kind in SECTIONS.items()
            for name in kind.model_fields
        ]
        table = "\n".join(["| | setting | value |", "| --- | --- | --- |", *rows, f"| | parameters | {parameters:,} |"])
        self.board.add_text("settings", table, 0)
        self.board.add_custom_scalars(TOGETHER)
        # SummaryWriter.add_hparams would open a sub-run for this; these are the same records, in the run itself.
        metrics = dict.fromkeys(("loss/validation", "bits_per_character/validation"), None)
        for record in hparams({**values, "parameters": parameters}, metrics):
            self.board._get_file_writer().add_summary(record)


def _short(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"


def _plain() -> bool:
    """Whether the terminal may lack the block characters of the bar."""
    return "utf" not in (sys.stderr.encoding or "").lower() or os.environ.get("TERM") == "dumb"
