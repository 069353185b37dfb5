"""The learning rate and the end of training, as pure functions of how far training is."""

import math

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
    """How far training is, from 0 to 1 and beyond, by the limit that will end it first."""
    return max(_by_limit(settings, step, epochs, minutes).values())


def why_complete(settings: OptimizationSettings, step: int, epochs: float, minutes: float) -> str:
    """For a run that has ended: what ended it, and how to continue it."""
    by_limit = _by_limit(settings, step, epochs, minutes)
    name = max(by_limit, key=by_limit.__getitem__)
    if by_limit[name] < 1:
        name = "patience"
    option, value = "--" + name.replace("_", "-"), getattr(settings, name)
    limit = f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"
    or_off = ", or --patience 0" if name == "patience" else ""
    return f"This run is already complete: it ended at {limit}. To continue it, use a larger {option}{or_off}."


def _by_limit(settings: OptimizationSettings, step: int, epochs: float, minutes: float) -> dict[str, float]:
    """How far training is towards each limit that is set."""
    done = {"max_steps": step, "max_epochs": epochs, "max_minutes": minutes}
    return {name: so_far / getattr(settings, name) for name, so_far in done.items() if getattr(settings, name)}


def total_steps(settings: OptimizationSettings, windows_per_epoch: int) -> int:
    """How many steps the whole training takes, 0 where the clock may end it."""
    by_epochs = max(0, round(settings.max_epochs * windows_per_epoch / settings.accumulation_steps) - 1)
    while by_epochs * settings.accumulation_steps / windows_per_epoch < settings.max_epochs:  # rounded as training does
        by_epochs += 1
    lengths = [length for length in (settings.max_steps, by_epochs) if length]
    return 0 if settings.max_minutes else min(lengths)
