"""How many threads compute, on a quiet machine and on a busy one."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import ModelSettings
from charlm.machine import LoadMeter
from charlm.model import sharing
from charlm.model.sharing import ThreadBalancer, choose_threads


class FakeMeter(LoadMeter):
    """A load and a clock to set by hand."""

    busy = 0.0
    now = 0.0
    started = 0.0

    def restart(self) -> None:
        self.started = self.now

    @property
    def seconds(self) -> float:
        return self.now - self.started

    def read(self) -> float:
        return self.busy


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter()


@pytest.fixture
def threads_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    yield numbers
    monkeypatch.undo()


@pytest.fixture
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "TORCH_THREADS", 8)
    monkeypatch.setattr(sharing, "count_processors", lambda: 6)


def run_for(balancer: ThreadBalancer, meter: FakeMeter, seconds: float, busy: float) -> None:
    meter.busy = busy
    for _ in range(int(seconds * 2)):
        meter.now += 0.5
        balancer.balance()


@pytest.mark.usefixtures("eight_processors")
def test_user_choice_of_threads_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_threads(0) == 6  # not more than there are processors to use
    assert choose_threads(32) == 32
    assert not sharing.is_fixed(0)
    assert sharing.is_fixed(3)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert choose_threads(0) == 8
    assert sharing.is_fixed(0)


@pytest.mark.usefixtures("eight_processors")
@pytest.mark.parametrize(
    ("hidden_size", "precision", "expected"),
    [(16, "fp32", 1), (128, "bf16", 1), (128, "fp32", 4), (192, "bf16", 2), (384, "bf16", 6), (1024, "fp32", 6)],
)
def test_small_models_get_fewer_threads(hidden_size: int, precision: str, expected: int) -> None:
    assert choose_threads(0, ModelSettings(hidden_size=hidden_size), 32, precision) == expected
    assert choose_threads(5, ModelSettings(hidden_size=hidden_size), 32, precision) == 5


def test_busy_machine_lowers_threads_and_quiet_one_raises_them(meter: FakeMeter, threads_set: list[int]) -> None:
    balancer = ThreadBalancer(2, fixed=False, processors=2, meter=meter)
    run_for(balancer, meter, 60, busy=0.2)
    assert threads_set == []
    assert not balancer.is_slowed
    run_for(balancer, meter, 4, busy=0.67)  # what is left to a busy loop by two threads that spin
    assert threads_set == [1]
    assert balancer.is_slowed
    run_for(balancer, meter, 60, busy=1.0)
    assert threads_set == [1]
    run_for(balancer, meter, 30, busy=0.4)  # neither busy nor quiet: no flapping
    assert threads_set == [1]
    run_for(balancer, meter, 25, busy=0.1)
    assert threads_set == [1, 2]
    assert not balancer.is_slowed


def test_at_least_one_thread(meter: FakeMeter, threads_set: list[int]) -> None:
    balancer = ThreadBalancer(2, fixed=False, processors=2, meter=meter)
    run_for(balancer, meter, 20, busy=5.0)
    assert threads_set == [1]


def test_two_runs_split_the_processors(meter: FakeMeter, threads_set: list[int]) -> None:
    balancer = ThreadBalancer(16, fixed=False, processors=16, meter=meter)
    run_for(balancer, meter, 20, busy=8.0)
    assert threads_set == [8]


def test_fixed_threads_never_change(meter: FakeMeter, threads_set: list[int]) -> None:
    balancer = ThreadBalancer(2, fixed=True, processors=2, meter=meter)
    run_for(balancer, meter, 20, busy=1.0)
    assert balancer.is_slowed  # it is only noticed
    run_for(balancer, meter, 60, busy=0.0)
    assert threads_set == []
    assert balancer.threads == 2


def test_few_threads_are_not_slowed_by_other_processors(meter: FakeMeter) -> None:
    balancer = ThreadBalancer(1, fixed=False, processors=2, meter=meter)
    run_for(balancer, meter, 20, busy=1.0)
    assert not balancer.is_slowed


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.1, 5)), max_size=50), st.integers(1, 16), st.integers(1, 16))
def test_threads_stay_within_limits(loads: list[tuple[float, float]], threads: int, processors: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda number: None)
        meter = FakeMeter()
        balancer = ThreadBalancer(threads, fixed=False, processors=processors, meter=meter)
        for busy, seconds in loads:
            meter.busy, before = busy, balancer.threads
            meter.now += seconds
            assert balancer.balance() == (balancer.threads != before)
            assert 1 <= balancer.threads <= threads
