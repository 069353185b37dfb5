"""The learning rate and the progress, as numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import OptimizationSettings
from charlm.training.schedule import LAST_FRACTION, learning_rate, progress, why_complete

HIGHEST = 0.004


def settings(**changes: object) -> OptimizationSettings:
    return OptimizationSettings(**{"learning_rate": HIGHEST, "warmup_steps": 0, **changes})


def test_warm_up_rises_in_a_straight_line_to_the_highest() -> None:
    constant = settings(schedule="constant", warmup_steps=4)
    rates = [learning_rate(constant, step, 0.0) for step in range(6)]
    assert rates == pytest.approx([HIGHEST / 4, HIGHEST / 2, HIGHEST * 3 / 4, HIGHEST, HIGHEST, HIGHEST])


def test_no_warm_up_starts_at_the_highest() -> None:
    for schedule in ("constant", "cosine"):
        assert learning_rate(settings(schedule=schedule), 0, 0.0) == pytest.approx(HIGHEST)


def test_cosine_starts_at_the_highest_passes_the_middle_and_ends_at_a_hundredth() -> None:
    cosine = settings(schedule="cosine")
    assert learning_rate(cosine, 0, 0.0) == pytest.approx(HIGHEST)
    assert learning_rate(cosine, 500, 0.5) == pytest.approx(HIGHEST * (1 + LAST_FRACTION) / 2)
    assert learning_rate(cosine, 1000, 1.0) == pytest.approx(HIGHEST * LAST_FRACTION)
    assert LAST_FRACTION == 0.01


def test_past_the_end_the_cosine_does_not_rise_again() -> None:
    cosine = settings(schedule="cosine")
    assert learning_rate(cosine, 1500, 1.5) == learning_rate(cosine, 1000, 1.0)


@given(st.floats(0, 1), st.floats(0, 1))
def test_cosine_never_rises(one: float, other: float) -> None:
    cosine = settings(schedule="cosine")
    earlier, later = sorted((one, other))
    assert learning_rate(cosine, 0, earlier) >= learning_rate(cosine, 0, later)


@given(st.integers(0, 10**9), st.floats(0, 10))
def test_constant_stays(step: int, so_far: float) -> None:
    assert learning_rate(settings(schedule="constant"), step, so_far) == HIGHEST


@given(st.integers(0, 1000), st.floats(0, 2), st.integers(0, 500), st.sampled_from(["cosine", "constant"]))
def test_the_rate_is_above_zero_and_at_most_the_highest(
    step: int, so_far: float, warmup_steps: int, schedule: str
) -> None:
    rate = learning_rate(settings(schedule=schedule, warmup_steps=warmup_steps), step, so_far)
    assert 0 < rate <= HIGHEST


def test_warm_up_and_cosine_multiply() -> None:
    both = settings(schedule="cosine", warmup_steps=10)
    assert learning_rate(both, 4, 0.5) == pytest.approx(0.5 * HIGHEST * (1 + LAST_FRACTION) / 2)


def test_progress_is_the_furthest_of_the_lengths_that_were_set() -> None:
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
def test_what_ended_a_run_is_named(changes: dict[str, float], done: tuple[int, float, float], limit: str) -> None:
    text = why_complete(settings(**changes), *done)
    assert f"{limit}." in text
    assert f"larger {limit.split()[0]}" in text
    others = {"--max-steps", "--max-epochs", "--max-minutes", "--patience"} - {limit.split()[0]}
    assert not any(other in text for other in others)


def test_a_length_of_zero_ends_nothing() -> None:
    assert progress(settings(max_steps=100), 10, 1e6, 1e6) == 0.1
    assert progress(settings(max_steps=0, max_epochs=4.0), 10**9, 1.0, 1e6) == 0.25
    assert progress(settings(max_steps=0, max_minutes=5.0), 10**9, 1e6, 6.0) == pytest.approx(1.2)
