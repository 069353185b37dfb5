"""The learning rate and the end of training, as pure functions of how far training is."""

import math

from charlm.checkpoint import TrainingProgress
from charlm.config import OptimizationSettings

LAST_FRACTION = 0.01  # of the highest learning rate, at the end of the cosine


def learning_rate(settings: OptimizationSettings, step: int, progress: float) -> float:
    """The learning rate of the step after ``step`` steps, at a ``progress`` of 0 to 1.

    It rises in a straight line over ``warmup_steps`` and, meanwhile and after, follows half a cosine down to
    ``LAST_FRACTION`` of the highest (Loshchilov and Hutter 2017, equation 5, without restarts) or stays.
    """
    warm_up = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "constant":
        return settings.learning_rate * warm_up
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return settings.learning_rate * warm_up * (LAST_FRACTION + (1 - LAST_FRACTION) * cosine)


def progress(settings: OptimizationSettings, step: int, epochs: float, minutes: float) -> float:
    """How far training is, from 0 to 1 and beyond: the furthest of the lengths that were set."""
    done = ((step, settings.max_steps), (epochs, settings.max_epochs), (minutes, settings.max_minutes))
    return max(so_far / length for so_far, length in done if length)


def already_complete(settings: OptimizationSettings, done: TrainingProgress, epochs: float) -> str:
    """What to tell someone who resumes a run that has ended: which limit ended it, and how to continue."""
    used = {"max_steps": done.steps, "max_epochs": epochs, "max_minutes": done.training_seconds / 60}
    reached = [name for name in used if 0 < getattr(settings, name) <= used[name]]
    name = reached[0] if reached else "patience"
    option, limit = f"--{name.replace('_', '-')}", str(getattr(settings, name)).removesuffix(".0")
    continues = f"a higher {option}" + ("" if reached else ", or with --patience 0")
    return f"This run is already complete: it reached {option} {limit}. To continue, resume it with {continues}."


def total_steps(settings: OptimizationSettings, windows_per_epoch: int) -> int:
    """How many steps the whole training takes, 0 where the clock may end it."""
    by_epochs = math.ceil(settings.max_epochs * windows_per_epoch / settings.accumulation_steps)
    lengths = [length for length in (settings.max_steps, by_epochs) if length]
    return 0 if settings.max_minutes else min(lengths)
