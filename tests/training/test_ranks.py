"""Several processes of a run, without starting them: what they share, divide, and wait for."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch import distributed as dist

from charlm.config import SettingsSource
from charlm.corpus.windows import Lanes
from charlm.errors import CharlmError, UsageError
from charlm.evaluation.loss import Losses, evaluate
from charlm.model import sharing
from charlm.model.sharing import choose_threads, is_fixed
from charlm.training import distributed, plan
from charlm.training.distributed import ConnectedRanks, OverlappingExchange, join_ranks
from charlm.training.ranks import Ranks
from charlm.training.request import TrainingRequest
from charlm.training.signals import StopSignals
from tests.conftest import make_text
from tests.evaluation.conftest import small_model
from tests.training.conftest import SETTINGS


def rank(number: int, count: int, store: Any = None) -> ConnectedRanks:
    return ConnectedRanks(store, number, count)


def in_threads(count: int, work: Callable[[ConnectedRanks], object]) -> list[object]:
    """What each rank returns or raises, each in a thread, with a store between them."""
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    results: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(rank(number, count, store))
        except CharlmError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    threads[0].join()
    if not isinstance(results[0], CharlmError):  # else the others would wait until torchrun ends them
        for thread in threads:
            thread.join()
    return results


# Lanes


def test_lanes_are_divided_in_order() -> None:
    assert [rank(number, 4).divide_lanes(12) for number in range(4)] == [
        range(3),
        range(3, 6),
        range(6, 9),
        range(9, 12),
    ]
    assert Ranks().divide_lanes(7) == range(7)


@pytest.mark.parametrize(("lanes", "count", "nearest"), [(32, 3, "30 and 33"), (3, 4, ": 4."), (9, 2, "8 and 10")])
def test_lanes_that_cannot_be_divided_are_refused(lanes: int, count: int, nearest: str) -> None:
    with pytest.raises(UsageError, match=nearest):
        rank(0, count).divide_lanes(lanes)


@pytest.mark.parametrize(("most", "hint"), [(5, "can: 4."), (1, "Start fewer processes.")])
def test_a_short_text_is_advised_only_what_it_has_lanes_for(most: int, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        rank(0, 2).divide_lanes(most, most)
    assert raised.value.hint.endswith(hint)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 20), st.integers(0, 200))
def test_windows_of_divided_lanes_are_parts_of_the_whole(count: int, each: int, steps: int, more: int) -> None:
    length = count * each * steps + more
    text = make_text([number % 7 for number in range(length)], 7)
    whole = Lanes(text, count * each, steps)
    parts = [Lanes(text, count * each, steps, divide=rank(number, count).divide_lanes) for number in range(count)]
    for number in range(2 * whole.windows_per_epoch + 1):
        window = whole.window(number)
        windows = [part.window(number) for part in parts]
        assert np.array_equal(np.concatenate([part.inputs for part in windows], axis=1), window.inputs)
        assert np.array_equal(np.concatenate([part.targets for part in windows], axis=1), window.targets)
        assert window.num_targets == np.count_nonzero(window.targets >= 0)
        assert {part.num_targets for part in windows} == {window.num_targets}
        assert [part.first_lane for part in windows] == [number * each for number in range(count)]
        assert {part.number for part in windows} == {number}


@pytest.mark.parametrize("count", [2, 3, 8])
def test_divided_evaluation_adds_up_to_the_whole(count: int) -> None:
    """With more processes than lanes, some evaluate nothing."""
    model, text = small_model(dropout=0.0), make_text([number**2 % 7 for number in range(5000)], 7)
    whole = evaluate(model, text, lanes=5)
    sums: list[Losses] = []

    class Part(ConnectedRanks):
        def add_up(self, values: Losses) -> Losses:
            sums.append(values.copy())
            return np.sum(sums, axis=0)

    for number in range(count):
        last = evaluate(model, text, lanes=5, sharing=Part(None, number, count))
    assert last.nats_per_character == pytest.approx(whole.nats_per_character, rel=1e-6)
    assert last.characters == whole.characters
    assert last.num_segments == 5


# Gradients


class Doubled:
    """A sum over two ranks that have the same."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def wait(self) -> None:
        self.tensor *= 2


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("bucket_elements", [1, 100, 1_000_000])
def test_gradients_are_sent_once_while_others_are_computed(
    monkeypatch: pytest.MonkeyPatch, bucket_elements: int, accumulated: int
) -> None:
    monkeypatch.setattr(distributed, "BUCKET_ELEMENTS", bucket_elements)
    model = small_model(dropout=0.0)
    weights = list(model.parameters())
    sent: list[int] = []  # how many gradients were there at each exchange

    def all_reduce(tensor: Tensor, async_op: bool) -> Doubled:
        sent.append(sum(weight.grad is not None for weight in weights))
        return Doubled(tensor)

    monkeypatch.setattr(distributed.dist, "all_reduce", all_reduce)
    exchange = OverlappingExchange(model)
    state, alone = model.zero_state(2), [torch.zeros_like(weight) for weight in weights]
    for number in range(accumulated):
        loss = model(torch.full((5, 2), number), state)[0].square().mean()
        for total, gradient in zip(alone, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
            total += gradient
        if number == accumulated - 1:
            assert not sent
            exchange.start(loss.detach())
        loss.backward()
    assert exchange.finish().item() == pytest.approx(2 * loss.item())
    for weight, gradient in zip(weights, alone, strict=True):
        torch.testing.assert_close(weight.grad, 2 * gradient)
    assert len(sent) == {1: len(weights), 100: 4, 1_000_000: 1}[bucket_elements]
    if accumulated == 1 and bucket_elements < 1_000_000:
        assert sent[0] < len(weights) - 2  # those of the lower layer and of the embedding are not there yet


# Waiting, comparing


def test_rank_0_goes_first() -> None:
    order: list[int] = []

    def work(ranks: ConnectedRanks) -> None:
        for _ in range(2):
            with ranks.main_first():
                if ranks.is_main:
                    time.sleep(0.05)
                order.append(ranks.number)

    in_threads(3, work)
    assert [order.index(0), len(order)] == [0, 6]
    assert sorted(order) == [0, 0, 1, 1, 2, 2]


def test_all_ranks_get_what_rank_0_computes() -> None:
    results = in_threads(3, lambda ranks: ranks.compute_on_main(lambda: {"loss": 0.1 + ranks.number}))
    assert results == [{"loss": 0.1}] * 3


def test_same_facts_are_accepted() -> None:
    assert in_threads(3, lambda ranks: ranks.check_same({"corpus": "ab12", "seed": 1})) == [None] * 3


def test_rank_with_other_facts_is_named() -> None:
    first, *_ = in_threads(3, lambda ranks: ranks.check_same({"corpus": ranks.number // 2, "seed": 1}))
    assert isinstance(first, UsageError)
    assert "Process 2" in first.message
    assert "corpus" in first.message
    assert "seed" not in first.message


# The machine


@pytest.fixture
def torchrun_with_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with 8 cores."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(sharing, "count_processors", lambda: 16)
    monkeypatch.setattr(sharing, "count_cores", lambda: 8)
    monkeypatch.setattr(sharing, "TORCH_THREADS", 8)


@pytest.mark.usefixtures("torchrun_with_four")
def test_threads_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "TORCH_THREADS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun does by itself
    assert choose_threads(0) == 2
    assert not is_fixed(0)
    assert choose_threads(3) == 3
    assert is_fixed(3)


@pytest.mark.usefixtures("torchrun_with_four")
def test_omp_num_threads_is_per_process_if_the_user_chose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "TORCH_THREADS", 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose_threads(0) == 5
    assert is_fixed(0)


@pytest.mark.usefixtures("torchrun_with_four")
def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank(5, 8).choose_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert rank(5, 8).choose_device(torch.device("cpu")) == torch.device("cpu")
    for shared in ("cuda:1", "mps"):
        with pytest.raises(UsageError, match=shared):
            rank(5, 8).choose_device(torch.device(shared))
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="4 processes"):
        rank(6, 8).choose_device(torch.device("cuda"))


def test_process_that_torchrun_did_not_start_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that other launchers set are not enough."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    assert join_ranks.__wrapped__().count == 1


# How they end


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")
def test_second_signal_does_not_interrupt_saving_if_processes_stop_together() -> None:
    signals = StopSignals(quiet=True, is_shared=True)
    signals.install()
    try:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signals.restore()
    assert signals.received == signal.SIGUSR1


def test_lost_connection_is_an_error_with_advice() -> None:
    lost = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Connection closed by peer [10.0.0.2]:30867"
    message = r"Process 1 .*: Connection closed by peer \[10.0.0.2\]:30867\.\n.*--resume auto"
    with pytest.raises(CharlmError, match=message), rank(1, 2).report_lost_ranks():
        raise RuntimeError(lost)
    with pytest.raises(ZeroDivisionError), rank(1, 2).report_lost_ranks():
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="shape"), rank(1, 2).report_lost_ranks():
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("-", {}, "standard input"),
        ("poem.txt", {"batch_size": 9}, "9 text streams"),
        ("poem.txt", {"batch_size": 1}, ": 2"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_is_written(
    poem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, int], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    monkeypatch.setattr(plan, "join_ranks", lambda: rank(0, 2, store))
    settings = SettingsSource("test", {**SETTINGS, **changes})
    with pytest.raises(UsageError, match=problem):
        plan.plan_training(TrainingRequest([name], [settings], out=tmp_path / "run", cache_folder=tmp_path / "cache"))
    assert not (tmp_path / "run").exists()
