"""The counters of training progress, as stored in checkpoints."""

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

NullableLoss = Annotated[
    float,
    BeforeValidator(lambda loss: math.inf if loss is None else loss),
    PlainSerializer(lambda loss: loss if math.isfinite(loss) else None),
]
"""Infinite if there is no loss yet; null in JSON."""


class ThreadChange(BaseModel):
    """A change of the number of threads at ``step``, because the load of other programs changed."""

    model_config = ConfigDict(strict=True)

    step: int = Field(ge=0)
    threads: int = Field(ge=1)


class TrainingProgress(BaseModel):
    """The counters of training: with the tensors of the training state, everything needed to resume."""

    model_config = ConfigDict(strict=True)

    steps: int = Field(0, ge=0)  # including skipped ones
    windows_seen: int = Field(0, ge=0)  # across epochs: the position in the training text
    training_seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    best_validation_loss: NullableLoss = math.inf
    evaluations_without_improvement: int = Field(0, ge=0)
    rollbacks: int = Field(0, ge=0)  # to an earlier checkpoint, after training diverged
    learning_rate_scale: float = Field(1.0, gt=0, allow_inf_nan=False)  # lowered by each rollback
    training_seconds_at_last_log: float = Field(0.0, ge=0, allow_inf_nan=False)
    targets_since_last_log: int = Field(0, ge=0)
    thread_changes: list[ThreadChange] = Field(default_factory=list)

    def record_evaluation(self, loss: float) -> tuple[float, int] | None:
        """Count an evaluation. If it is the best, returns the previous best loss and the evaluations since then."""
        if loss < self.best_validation_loss:
            previous = self.best_validation_loss, self.evaluations_without_improvement
            self.best_validation_loss, self.evaluations_without_improvement = loss, 0
            return previous
        self.evaluations_without_improvement += 1
        return None
