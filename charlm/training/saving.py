"""Save checkpoints, and handle saves that fail."""

import warnings
from pathlib import Path

from charlm import files, runs
from charlm.checkpoint.contents import Checkpoint
from charlm.errors import CharlmError, CharlmWarning, UnreadableError, quote

RETRY_SECONDS = 30.0  # of training time after a failed save


class Saver:
    """Saves checkpoints of a run. Failed saves are retried; nothing counts as saved before its folder exists."""

    def __init__(self, run: Path, every_minutes: float, keep: int) -> None:
        self.run = run
        self.every_seconds = every_minutes * 60
        self.keep = keep
        self.start_from(0, 0.0)

    def start_from(self, step: int, seconds: float) -> None:
        """Record that the run is saved up to ``step``, after ``seconds`` of training time."""
        self.saved_step = step
        self.due_seconds = seconds + self.every_seconds

    def save(self, checkpoint: Checkpoint) -> bool:
        """Save a checkpoint. Returns whether it succeeded; if not, it warns, and earlier checkpoints are kept."""
        step, seconds = checkpoint.model.step, checkpoint.model.progress.training_seconds
        try:
            files.sync_file(self.run / runs.METRICS)  # a resumed run relies on the metrics up to this step
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
        """Raise ``CharlmError`` because the final save of a run failed."""
        kept = ", ".join(folder.name for folder in reversed(runs.list_checkpoints(self.run))) or "nothing"
        raise CharlmError(
            f"{self.run}: step {step} could not be saved. Kept: {kept}.",
            f"Free up space, then run: charlm train --resume {quote(self.run)}",
        )
