"""Saving a run: when it is due, and what happens when it fails."""

import warnings
from pathlib import Path

from charlm import files, runs
from charlm.checkpoint.contents import Checkpoint
from charlm.errors import CharlmError, CharlmWarning, UnreadableError, quote

RETRY_SECONDS = 30.0  # of training time after a save that failed


class Saver:
    """Commits checkpoints to a run. One that fails is tried again: nothing counts as saved before its folder exists."""

    def __init__(self, run: Path, every_minutes: float, keep: int) -> None:
        self.run = run
        self.every_seconds = every_minutes * 60
        self.keep = keep
        self.start_from(0, 0.0)

    def start_from(self, step: int, seconds: float) -> None:
        """The run is saved up to ``step``, after ``seconds`` of training time."""
        self.saved_step = step
        self.due_seconds = seconds + self.every_seconds

    def is_due(self, seconds: float) -> bool:
        return seconds >= self.due_seconds

    def save(self, checkpoint: Checkpoint) -> bool:
        """Commit a checkpoint. Returns whether it worked; if not, a warning says why, and what was saved stays."""
        step, seconds = checkpoint.model.step, checkpoint.model.progress.training_seconds
        try:
            files.sync_file(self.run / runs.METRICS)  # a resume counts on what was logged up to this step
            runs.save_checkpoint(self.run, checkpoint, self.keep)
        except (OSError, UnreadableError) as error:
            self.due_seconds = seconds + min(RETRY_SECONDS, self.every_seconds)
            reason = (error.strerror or error) if isinstance(error, OSError) else error.message.rstrip(".")
            warnings.warn(
                f"{self.run}: the checkpoint at step {step} could not be written: {reason}. Training continues.",
                CharlmWarning,
                stacklevel=2,
            )
            return False
        self.start_from(step, seconds)
        return True

    def fail(self, step: int) -> None:
        """Raises ``CharlmError``: the last save of a run has failed."""
        kept = ", ".join(folder.name for folder in reversed(runs.list_checkpoints(self.run))) or "nothing"
        raise CharlmError(
            f"{self.run}: step {step} could not be saved. Kept: {kept}.",
            f"Free up space, then run: charlm train --resume {quote(self.run)}",
        )
