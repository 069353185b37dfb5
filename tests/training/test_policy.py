"""What is due after a step, decided from settings and counters alone."""

import pytest

from charlm.config import TrainSettings
from charlm.errors import DivergedError
from charlm.progress import TrainingProgress
from charlm.training.policy import Policy

SETTINGS = {"max_steps": 20, "log_every": 4, "evaluate_every": 5, "learning_rate": 0.01, "warmup_steps": 0}


def make_policy(**changes: object) -> Policy:
    return Policy(TrainSettings(**{**SETTINGS, **changes}), 10_000, 1_000, windows_per_epoch=8)


def counters(steps: int, **others: object) -> TrainingProgress:
    return TrainingProgress(steps=steps, windows_seen=steps, **others)


def test_logging_and_evaluation_are_due_at_their_steps() -> None:
    policy = make_policy(max_steps=18)
    steps = range(1, 19)
    assert [step for step in steps if policy.should_log(counters(step))] == [4, 8, 12, 16]
    assert [step for step in steps if policy.should_evaluate(counters(step), 0.0)] == [5, 10, 15, 18]


def test_checkpoint_is_due_for_new_best_on_time_and_at_end() -> None:
    policy = make_policy()
    assert policy.should_save(counters(3), 10.0, due_seconds=60.0, is_best=True)
    assert policy.should_save(counters(3), 60.0, due_seconds=60.0, is_best=False)
    assert not policy.should_save(counters(3), 59.0, due_seconds=60.0, is_best=False)
    assert policy.should_save(counters(20), 59.0, due_seconds=60.0, is_best=False)


@pytest.mark.parametrize(
    ("changes", "progress", "seconds", "stops"),
    [
        ({}, counters(19), 0.0, False),
        ({}, counters(20), 0.0, True),
        ({"max_steps": 0, "max_epochs": 2.0}, counters(15), 0.0, False),
        ({"max_steps": 0, "max_epochs": 2.0}, counters(16), 0.0, True),
        ({"max_minutes": 1.0}, counters(3), 59.0, False),
        ({"max_minutes": 1.0}, counters(3), 60.0, True),
        ({"patience": 2}, counters(3, evaluations_without_improvement=1), 0.0, False),
        ({"patience": 2}, counters(3, evaluations_without_improvement=2), 0.0, True),
        ({"patience": 0}, counters(3, evaluations_without_improvement=9), 0.0, False),
    ],
)
def test_any_limit_stops_a_run(
    changes: dict[str, object], progress: TrainingProgress, seconds: float, stops: bool
) -> None:
    assert make_policy(**changes).should_stop(progress, seconds) is stops


def test_rollback_halves_learning_rate_at_most_twice() -> None:
    policy = make_policy(schedule="constant")
    progress = counters(7)
    for expected in ((1, 0.5), (2, 0.25)):
        progress.rollbacks, progress.learning_rate_scale = policy.roll_back(progress)
        assert (progress.rollbacks, progress.learning_rate_scale) == expected
    assert policy.learning_rate(progress, 0.0) == pytest.approx(0.0025)
    with pytest.raises(DivergedError, match="step 7") as raised:
        policy.roll_back(progress)
    assert "0.0025" in raised.value.hint
