"""Decide what is due: logging, evaluation, saving, stopping, rolling back.

All decisions depend only on settings and counters.
"""

from charlm.config import TrainSettings
from charlm.errors import DivergedError
from charlm.progress import TrainingProgress
from charlm.training import schedule

MAX_ROLLBACKS = 2
ROLLBACK_LR_SCALE = 0.5  # of the learning rate, each time


class Policy:
    """Decisions for one run. ``seconds`` are training time."""

    def __init__(
        self, settings: TrainSettings, training_characters: int, validation_characters: int, windows_per_epoch: int
    ) -> None:
        self.settings = settings
        self.windows_per_epoch = windows_per_epoch
        self.total_steps = schedule.total_steps(settings, windows_per_epoch)  # 0: unknown, limited by time
        self.evaluations = schedule.schedule_evaluations(
            settings, training_characters, validation_characters, windows_per_epoch
        )

    def count_epochs(self, counters: TrainingProgress) -> float:
        return counters.windows_seen / self.windows_per_epoch

    def progress(self, counters: TrainingProgress, seconds: float) -> float:
        """The progress of training, from 0 to 1 or more."""
        return schedule.progress(self.settings, counters.steps, self.count_epochs(counters), seconds / 60)

    def learning_rate(self, counters: TrainingProgress, seconds: float) -> float:
        """The learning rate of the next step."""
        progress = self.progress(counters, seconds)
        return schedule.learning_rate(self.settings, counters.steps, progress) * counters.learning_rate_scale

    def should_log(self, counters: TrainingProgress) -> bool:
        return counters.steps % self.settings.log_every == 0

    def should_evaluate(self, counters: TrainingProgress, seconds: float) -> bool:
        return self.should_stop(counters, seconds) or self.evaluations.is_due(counters.steps)

    def should_save(self, counters: TrainingProgress, seconds: float, due_seconds: float, is_best: bool) -> bool:
        """``due_seconds``: when the next checkpoint is due at the latest; ``is_best``: whether the current model is the
        best.
        """
        return is_best or seconds >= due_seconds or self.should_stop(counters, seconds)

    def should_stop(self, counters: TrainingProgress, seconds: float) -> bool:
        has_run_out_of_patience = 0 < self.settings.patience <= counters.evaluations_without_improvement
        return has_run_out_of_patience or self.progress(counters, seconds) >= 1

    def why_stopped(self, counters: TrainingProgress, seconds: float) -> str:
        """For a finished run: which limit ended it, and how to continue."""
        return schedule.why_complete(self.settings, counters.steps, self.count_epochs(counters), seconds / 60)

    def roll_back(self, counters: TrainingProgress) -> tuple[int, float]:
        """The new number of rollbacks and learning rate scale after training diverged.

        Raises ``DivergedError`` after too many rollbacks.
        """
        if counters.rollbacks == MAX_ROLLBACKS:
            last = self.settings.learning_rate * counters.learning_rate_scale
            raise DivergedError(
                f"Training diverged at step {counters.steps}, even at a lower learning rate. "
                "Saved checkpoints are intact.",
                f"Use a lower --learning-rate (last: {last:g}).",
            )
        return counters.rollbacks + 1, counters.learning_rate_scale * ROLLBACK_LR_SCALE
