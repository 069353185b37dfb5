"""Training time: steps count, other work and gaps do not."""

import time

import pytest
import torch

from charlm.training.stopwatch import Stopwatch
from tests.training.conftest import Make, entries


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_paused_time_is_not_counted(clock: Clock) -> None:
    stopwatch = Stopwatch(torch.device("cpu"), 5.0)
    clock.now += 100
    assert stopwatch.read() == 5
    stopwatch.start()
    clock.now += 2
    with stopwatch.paused():
        clock.now += 100
        assert stopwatch.read() == 7
    clock.now += 3
    assert stopwatch.read() == 10
    assert stopwatch.end_lap() == 0


@pytest.mark.parametrize(
    ("usual", "late", "gap"),
    [
        (1.0, 61.5, 60.5),
        (1.0, 59.0, 0.0),  # not a minute
        (4.0, 79.0, 0.0),  # not twenty steps
        (4.0, 81.0, 77.0),
        (0.01, 3600.0, 3599.99),
    ],
)
def test_gap_counts_as_one_median_step(clock: Clock, usual: float, late: float, gap: float) -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.start()
    for seconds in (usual, usual, usual * 1.5, usual / 2, usual):
        clock.now += seconds
        assert stopwatch.end_lap() == 0
    clock.now += late
    before = stopwatch.read()
    assert stopwatch.end_lap() == pytest.approx(gap)
    assert stopwatch.read() == pytest.approx(before - gap)
    clock.now += usual
    assert stopwatch.end_lap() == 0


def test_slow_first_step_is_not_a_gap(clock: Clock) -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.start()
    clock.now += 600
    assert stopwatch.end_lap() == 0
    assert stopwatch.read() == 600


def test_evaluation_is_not_a_gap(clock: Clock) -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.start()
    for _ in range(5):
        clock.now += 1
        assert stopwatch.end_lap() == 0
        with stopwatch.paused():
            clock.now += 500
    assert stopwatch.read() == 5


def test_gap_does_not_count_toward_minutes_and_is_logged(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    trainer = make_trainer(max_steps=0, max_minutes=1.0, log_every=1)
    monkeypatch.setattr(time, "perf_counter", clock)
    train_step = trainer.train_step

    def step_with_clock() -> None:
        train_step()
        clock.now += 600 if trainer.counters.steps == 5 else 10

    trainer.train_step = step_with_clock
    trainer.train()
    assert trainer.counters.steps == 6
    assert trainer.counters.training_seconds == pytest.approx(60)
    assert [entry for entry in entries(trainer.run) if "stopped_seconds" in entry] == [
        {"step": 5, "stopped_seconds": pytest.approx(590)}
    ]
