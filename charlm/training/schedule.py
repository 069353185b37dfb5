"""Pure functions for the learning rate, the evaluation steps, and the end of training."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction

from charlm.config import OptimizationSettings, TrainSettings
from charlm.evaluation.loss import count_characters_read

FINAL_LR_FRACTION = 0.01  # of the peak learning rate, at the end of the cosine

TRAINING_PASSES = 3  # forward, and backward for the gradients of activations and of weights
SAMPLING_PASSES = 20  # sampling one character takes as long as evaluating 7 to 14 on one core, more on faster machines
MAX_EVALUATION_SHARE = Fraction(1, 10)  # maximum share of the training work, unless that allows too few evaluations
MIN_EVALUATIONS, MAX_EVALUATIONS = 4, 10
MIN_INTERVAL = 100  # steps, if their total is unknown; limits the uncounted time for saving each new best


def learning_rate(settings: OptimizationSettings, step: int, progress: float) -> float:
    """The learning rate after ``step`` steps, at a ``progress`` from 0 to 1.

    It rises in a straight line over ``warmup_steps``. Meanwhile and after, it stays (``constant``), follows half a
    cosine down to ``FINAL_LR_FRACTION`` of the highest (``cosine``: Loshchilov and Hutter 2017, equation 5, without
    restarts), or stays and falls in a straight line, to the same fraction, over the last ``decay_fraction`` of the run
    (``wsd``: Hu et al. 2024, section 4; a straight line is what Hägele et al. 2024 compare it with).
    """
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    height = 1.0  # from 1, at the peak, to 0, at the end
    if settings.schedule == "cosine":
        height = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    elif settings.schedule == "wsd":
        height = min(1.0, max(0.0, 1 - progress) / settings.decay_fraction)
    return settings.learning_rate * warmup * (FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * height)


def progress(settings: OptimizationSettings, step: int, epochs: float, minutes: float) -> float:
    """The progress of training, from 0 to 1 or more, toward the limit that is reached first."""
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
    """The progress toward each active limit."""
    used = {"max_steps": step, "max_epochs": epochs, "max_minutes": minutes}
    return {name: amount / getattr(settings, name) for name, amount in used.items() if getattr(settings, name)}


def total_steps(settings: OptimizationSettings, windows_per_epoch: int) -> int:
    """The total number of steps, or 0 if a time limit may end training."""
    return 0 if settings.max_minutes else step_limit(settings, windows_per_epoch)


def step_limit(settings: OptimizationSettings, windows_per_epoch: int) -> int:
    """The maximum number of steps, or 0 if only a time limit ends training."""
    by_epochs = max(0, round(settings.max_epochs * windows_per_epoch / settings.accumulation_steps) - 1)
    while by_epochs * settings.accumulation_steps / windows_per_epoch < settings.max_epochs:  # rounded as training does
        by_epochs += 1
    return min((limit for limit in (settings.max_steps, by_epochs) if limit), default=0)


@dataclass(frozen=True)
class EvaluationSchedule:
    """The steps at which to evaluate. The last step of training is always evaluated, too.

    Evaluation ``k`` comes after ``interval × k`` steps, or earlier where it is among the first ``growing``: after
    ``√(k / growing)`` times as many. So the intervals between these grow, and from there on they are equal.
    """

    interval: Fraction
    growing: int

    def step_of(self, number: int) -> int:
        """The step of an evaluation, numbered from 1; strictly increasing.

        Floating-point division, multiplication and square root are rounded alike on every machine; powers are not.
        """
        steps = self.interval.numerator * number / self.interval.denominator
        return max(number, math.ceil(steps * math.sqrt(min(1.0, number / self.growing))))

    def is_due(self, step: int) -> bool:
        numbers = range(1, step + 1)  # the number of an evaluation is at most its step
        return step > 0 and self.step_of(numbers[bisect_left(numbers, step, key=self.step_of)]) == step


def schedule_evaluations(
    settings: TrainSettings, training_characters: int, validation_characters: int, windows_per_epoch: int
) -> EvaluationSchedule:
    """When to evaluate: the same on every machine, since work is counted and not timed.

    Work is characters times passes of the model over them. The work of an evaluation includes the characters that its
    lanes warm up on, and the sample.

    With a limit in steps or epochs, ``auto`` is ten evaluations where they take at most a tenth of the work of
    training, else as many as do, but at least four; the last one is at that limit, even if minutes may end the run
    earlier. If only minutes end it, evaluations follow the schedule of a run whose work is just enough for ten of them;
    after the tenth, they come at equal intervals, so that they keep taking a tenth of the work.

    A resumed run follows the schedule of its present settings. With the same settings as before, it evaluates at the
    same steps as an uninterrupted run. With another limit, the evaluations before the resume stay where they were. An
    uninterrupted run with the new limit has the same weights (if its learning rate is constant) but other evaluations,
    and so perhaps another best checkpoint and another end by ``patience``.
    """
    if settings.evaluate_every != "auto":
        return EvaluationSchedule(Fraction(settings.evaluate_every), growing=1)
    step_work = TRAINING_PASSES * Fraction(training_characters * settings.accumulation_steps, windows_per_epoch)
    evaluation_work = count_characters_read(validation_characters) + SAMPLING_PASSES * settings.sample_length
    if not (steps := step_limit(settings, windows_per_epoch)):
        interval = max(Fraction(MIN_INTERVAL), evaluation_work / (MAX_EVALUATION_SHARE * step_work))
        return EvaluationSchedule(interval, growing=MAX_EVALUATIONS)
    affordable = math.floor(MAX_EVALUATION_SHARE * steps * step_work / evaluation_work)
    evaluations = min(steps, max(MIN_EVALUATIONS, min(MAX_EVALUATIONS, affordable)))
    return EvaluationSchedule(Fraction(steps, evaluations), growing=evaluations)
