"""The learning rate, the progress and the steps of evaluations, as numbers."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import OptimizationSettings, TrainSettings
from charlm.evaluation.loss import WARMUP_CHARACTERS, choose_lanes
from charlm.training.schedule import (
    FINAL_LR_FRACTION,
    SAMPLING_PASSES,
    learning_rate,
    progress,
    schedule_evaluations,
    step_limit,
    why_complete,
)

HIGHEST = 0.004


def settings(**changes: object) -> OptimizationSettings:
    return OptimizationSettings(**{"learning_rate": HIGHEST, "warmup_steps": 0, **changes})


def test_warmup_rises_linearly_to_peak() -> None:
    constant = settings(schedule="constant", warmup_steps=4)
    rates = [learning_rate(constant, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([HIGHEST / 4, HIGHEST / 2, HIGHEST * 3 / 4, HIGHEST, HIGHEST, HIGHEST])


def test_no_warmup_starts_at_peak() -> None:
    for schedule in ("constant", "cosine", "wsd"):
        assert learning_rate(settings(schedule=schedule), 0, 0.0) == pytest.approx(HIGHEST)


def test_cosine_goes_from_peak_to_one_hundredth() -> None:
    cosine = settings(schedule="cosine")
    assert learning_rate(cosine, 0, 0.0) == pytest.approx(HIGHEST)
    assert learning_rate(cosine, 500, 0.5) == pytest.approx(HIGHEST * (1 + FINAL_LR_FRACTION) / 2)
    assert learning_rate(cosine, 1000, 1.0) == pytest.approx(HIGHEST * FINAL_LR_FRACTION)
    assert FINAL_LR_FRACTION == 0.01


def test_cosine_stays_low_past_the_end() -> None:
    cosine = settings(schedule="cosine")
    assert learning_rate(cosine, 1500, 1.5) == learning_rate(cosine, 1000, 1.0)


def test_wsd_is_stable_and_then_decays_linearly() -> None:
    wsd = settings(schedule="wsd", decay_fraction=0.2)
    assert [learning_rate(wsd, 0, so_far) for so_far in (0.0, 0.3, 0.799)] == [HIGHEST] * 3
    last = FINAL_LR_FRACTION * HIGHEST
    assert learning_rate(wsd, 0, 0.9) == pytest.approx((HIGHEST + last) / 2)
    assert learning_rate(wsd, 0, 0.95) == pytest.approx(HIGHEST / 4 + 3 * last / 4)
    assert learning_rate(wsd, 0, 1.0) == learning_rate(wsd, 0, 1.5) == pytest.approx(last)


def test_wsd_warms_up_and_may_decay_all_along() -> None:
    assert learning_rate(settings(schedule="wsd", warmup_steps=4), 1, 0.1) == pytest.approx(HIGHEST / 2)
    linear = settings(schedule="wsd", decay_fraction=1.0)
    assert learning_rate(linear, 0, 0.5) == pytest.approx(HIGHEST * (1 + FINAL_LR_FRACTION) / 2)


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs", "max_minutes"])
def test_wsd_decays_toward_any_limit(limit: str) -> None:
    wsd = settings(**{"schedule": "wsd", "decay_fraction": 0.5, "max_steps": 0, limit: 8})
    amounts = {"max_steps": (6, 0.0, 0.0), "max_epochs": (0, 6.0, 0.0), "max_minutes": (0, 0.0, 6.0)}[limit]
    rate = learning_rate(wsd, amounts[0], progress(wsd, *amounts))
    assert rate == pytest.approx(HIGHEST * (1 + FINAL_LR_FRACTION) / 2)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@given(st.floats(0, 1), st.floats(0, 1))
def test_learning_rate_never_rises_after_warmup(schedule: str, one: float, other: float) -> None:
    falling = settings(schedule=schedule)
    earlier, later = sorted((one, other))
    assert learning_rate(falling, 0, earlier) >= learning_rate(falling, 0, later)


@given(st.integers(0, 10**9), st.floats(0, 10))
def test_constant_schedule_is_constant(step: int, so_far: float) -> None:
    assert learning_rate(settings(schedule="constant"), step, so_far) == HIGHEST


@given(st.integers(0, 1000), st.floats(0, 2), st.integers(0, 500), st.sampled_from(["cosine", "wsd", "constant"]))
def test_learning_rate_is_positive_and_at_most_peak(step: int, so_far: float, warmup_steps: int, schedule: str) -> None:
    rate = learning_rate(settings(schedule=schedule, warmup_steps=warmup_steps), step, so_far)
    assert 0 < rate <= HIGHEST


def test_warmup_and_cosine_are_multiplied() -> None:
    both = settings(schedule="cosine", warmup_steps=10)
    assert learning_rate(both, 4, 0.5) == pytest.approx(0.5 * HIGHEST * (1 + FINAL_LR_FRACTION) / 2)


def test_progress_is_maximum_over_limits() -> None:
    three = settings(max_steps=100, max_epochs=2.0, max_minutes=10.0)
    assert progress(three, 50, 0.5, 1.0) == 0.5
    assert progress(three, 50, 1.5, 1.0) == 0.75
    assert progress(three, 50, 1.5, 9.0) == 0.9


@pytest.mark.parametrize(
    ("changes", "done", "limit"),
    [
        ({"max_steps": 1_000_000}, (1_000_000, 3.0, 5.0), "--max-steps 1000000"),
        ({"max_steps": 0, "max_epochs": 2.5}, (70, 2.5, 5.0), "--max-epochs 2.5"),
        ({"max_steps": 0, "max_minutes": 5.0}, (70, 3.0, 5.1), "--max-minutes 5"),
        ({"max_steps": 99, "max_epochs": 2.5}, (70, 2.5, 5.0), "--max-epochs 2.5"),
        ({"max_steps": 99, "patience": 3}, (70, 2.5, 5.0), "--patience 3"),
    ],
    ids=str,
)
def test_completion_reason_names_limit(changes: dict[str, float], done: tuple[int, float, float], limit: str) -> None:
    text = why_complete(settings(**changes), *done)
    assert f"{limit}." in text
    assert f"larger {limit.split()[0]}" in text
    others = {"--max-steps", "--max-epochs", "--max-minutes", "--patience"} - {limit.split()[0]}
    assert not any(other in text for other in others)


def test_limit_of_zero_is_ignored() -> None:
    assert progress(settings(max_steps=100), 10, 1e6, 1e6) == 0.1
    assert progress(settings(max_steps=0, max_epochs=4.0), 10**9, 1.0, 1e6) == 0.25
    assert progress(settings(max_steps=0, max_minutes=5.0), 10**9, 1e6, 6.0) == pytest.approx(1.2)


# Evaluations

TINY = {"batch_size": 32, "sequence_length": 32, "max_steps": 500}
TINY_SHAKESPEARE = (1_003_854, 111_540)
TEN_MEGABYTES = (9_000_000, 1_000_000)


class Run:
    """A run of some length on a text of some size, and when it evaluates."""

    def __init__(self, training_characters: int, validation_characters: int, **changes: object) -> None:
        self.settings = TrainSettings(**changes)
        lane_length = -(-training_characters // self.settings.batch_size)
        windows = -(-lane_length // self.settings.sequence_length)
        self.counts = training_characters, validation_characters, windows
        self.step_work = Fraction(3 * training_characters * self.settings.accumulation_steps, windows)
        self.evaluations = schedule_evaluations(self.settings, *self.counts)
        lanes = choose_lanes(validation_characters)
        self.evaluation_work = validation_characters + (lanes * WARMUP_CHARACTERS if lanes > 1 else 0)
        self.evaluation_work += SAMPLING_PASSES * self.settings.sample_length

    @property
    def length(self) -> int:
        return step_limit(self.settings, self.counts[2])

    @property
    def steps(self) -> list[int]:
        """The steps of the evaluations of a run that is limited in steps or epochs."""
        numbers = itertools.count(1)
        return list(itertools.takewhile(lambda step: step <= self.length, map(self.evaluations.step_of, numbers)))

    def share(self, evaluations: int, steps: int) -> Fraction:
        """Of the work of training, what evaluating takes."""
        return Fraction(evaluations * self.evaluation_work) / (steps * self.step_work)


sizes = st.integers(1_000, 10**10)
shapes = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 200),
        "sequence_length": st.integers(1, 500),
        "accumulation_steps": st.integers(1, 4),
        "sample_length": st.integers(0, 2_000),
    }
)
limits = st.one_of(
    st.fixed_dictionaries({"max_steps": st.integers(1, 10**6)}),
    st.fixed_dictionaries({"max_steps": st.just(0), "max_epochs": st.floats(0.01, 100)}),
    st.fixed_dictionaries({"max_steps": st.integers(1, 10**6), "max_epochs": st.floats(0.01, 100)}),
)
runs_of_some_steps = st.builds(
    lambda training, validation, shape, limit, minutes: Run(
        training, validation, **shape, **limit, max_minutes=minutes
    ),
    *(sizes, sizes, shapes, limits, st.sampled_from([0.0, 30.0])),
)
runs_of_some_minutes = st.builds(
    lambda training, validation, shape: Run(training, validation, **shape, max_steps=0, max_minutes=5.0),
    *(sizes, sizes, shapes),
)


@pytest.mark.parametrize(
    ("sizes", "changes", "steps"),
    [
        (TINY_SHAKESPEARE, {}, [102, 287, 526, 810, 1132, 1488, 1875, 2290, 2733, 3200]),
        (TINY_SHAKESPEARE, TINY, [63, 177, 325, 500]),
        (TEN_MEGABYTES, {}, [400, 1132, 2079, 3200]),
        (TEN_MEGABYTES, TINY, [63, 177, 325, 500]),
        (TEN_MEGABYTES, {"max_steps": 0, "max_epochs": 1.0}, [550, 1554, 2855, 4395]),
        (TEN_MEGABYTES, {"max_steps": 20_000}, [633, 1789, 3287, 5060, 7072, 9296, 11714, 14311, 17077, 20000]),
        (TINY_SHAKESPEARE, {"max_steps": 7}, [1, 3, 5, 7]),
        (TINY_SHAKESPEARE, {"max_steps": 3}, [1, 2, 3]),
        (TINY_SHAKESPEARE, {"max_steps": 1}, [1]),
    ],
)
def test_evaluation_steps(sizes: tuple[int, int], changes: dict[str, object], steps: list[int]) -> None:
    assert Run(*sizes, **changes).steps == steps


@given(runs_of_some_steps)
def test_evaluation_steps_increase_and_end_at_last_step(run: Run) -> None:
    assert run.steps == sorted(set(run.steps))
    assert run.steps[0] >= 1
    assert run.steps[-1] == run.length


@given(runs_of_some_steps)
def test_four_to_ten_evaluations_or_one_per_step(run: Run) -> None:
    assert min(4, run.length) <= len(run.steps) <= min(10, run.length)


@given(runs_of_some_steps)
def test_evaluations_use_at_most_a_tenth_of_the_work(run: Run) -> None:
    count = len(run.steps)
    if count > 4:
        assert run.share(count, run.length) <= Fraction(1, 10)
    if 4 <= count < min(10, run.length):
        assert run.share(count + 1, run.length) > Fraction(1, 10)


@given(runs_of_some_steps)
def test_early_evaluations_are_closer_together(run: Run) -> None:
    intervals = [later - earlier for earlier, later in itertools.pairwise([0, *run.steps])]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(intervals))  # each is rounded by itself
    if run.length >= 100:
        assert 2 * intervals[0] < intervals[-1]


@given(runs_of_some_steps, st.floats(0.001, 10**6))
def test_minutes_limit_in_addition_changes_nothing(run: Run, minutes: float) -> None:
    settings = run.settings.model_copy(update={"max_minutes": minutes})
    assert schedule_evaluations(settings, *run.counts) == run.evaluations


@given(runs_of_some_minutes)
def test_minutes_only_intervals_grow_to_a_tenth_of_the_work(run: Run) -> None:
    steps = [run.evaluations.step_of(number) for number in range(1, 60)]
    intervals = [later - earlier for earlier, later in itertools.pairwise([0, *steps])]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(intervals[:10]))
    assert 2 * intervals[0] < intervals[9]
    assert max(intervals[10:]) - min(intervals[10:]) <= 1
    shares = [run.share(number, step) for number, step in enumerate(steps, 1)]
    assert all(share <= Fraction(1, 10) for share in shares[9:])
    assert min(intervals[10:]) in (99, 100) or shares[-1] > Fraction(98, 1000)  # no less than that either


def test_minutes_only_starts_like_run_with_ten_evaluations() -> None:
    minutes = Run(*TINY_SHAKESPEARE, max_steps=0, max_minutes=5.0)
    tenth = minutes.evaluations.step_of(10)
    of_steps = Run(*TINY_SHAKESPEARE, max_steps=tenth)
    first_ten = [minutes.evaluations.step_of(number) for number in range(1, 11)]
    assert of_steps.steps == pytest.approx(first_ten, abs=1)  # the interval is not a whole number of steps


@given(st.one_of(runs_of_some_steps, runs_of_some_minutes), st.integers(1, 10**6))
def test_is_due_matches_evaluation_steps(run: Run, step: int) -> None:
    evaluations = run.evaluations
    assert evaluations.is_due(evaluations.step_of(step))
    if step <= 400:
        assert evaluations.is_due(step) == (step in [evaluations.step_of(number) for number in range(1, step + 1)])


def test_step_zero_is_never_due() -> None:
    for changes in ({}, {"evaluate_every": 1}, {"max_steps": 0, "max_minutes": 1.0}):
        assert not Run(*TINY_SHAKESPEARE, **changes).evaluations.is_due(0)


@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_explicit_interval_ignores_text_and_limits(every: int, step: int) -> None:
    evaluations = Run(*TINY_SHAKESPEARE, evaluate_every=every).evaluations
    assert evaluations.is_due(step) == (step > 0 and step % every == 0)


@given(runs_of_some_steps)
def test_more_validation_text_never_adds_evaluations(run: Run) -> None:
    training, validation, windows = run.counts
    larger = schedule_evaluations(run.settings, training, 2 * validation, windows)
    assert larger.interval >= run.evaluations.interval
