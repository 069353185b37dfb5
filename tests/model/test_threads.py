"""A sampling step limits its threads, and leaves the process as it was."""

from collections.abc import Iterator
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor

from charlm.config import ModelSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.generation.sampler import Sampler
from charlm.model import stepper
from charlm.model.language_model import CharacterModel
from charlm.model.matmul import MatMul, torch_matmul
from charlm.model.stepper import Stepper
from charlm.model.threads import ThreadLimit, count_useful_threads

THREADS = 3  # torch's outside of a step; nothing here is large enough to be shared among them


@pytest.fixture(autouse=True)
def _several_threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture
def threads_of_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads torch had during each product of a step."""
    seen: list[int] = []

    def make_observed(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
        product = torch_matmul(weight, bias, hidden)

        def observed() -> object:
            seen.append(torch.get_num_threads())
            return product()

        return observed

    monkeypatch.setattr(stepper, "choose_matmul", lambda *arguments: make_observed)
    return seen


def model_of(hidden_size: int = 16) -> CharacterModel:
    model = CharacterModel(3, ModelSettings(hidden_size=hidden_size, embedding_size=8, num_layers=2)).eval()
    model.recurrent.kernel = "torch"  # the native one has threads of its own
    return model


@pytest.mark.parametrize(("limit", "inside"), [(1, 1), (2, 2), (THREADS + 5, THREADS)])
def test_limit_applies_only_inside(limit: int, inside: int) -> None:
    with ThreadLimit(limit):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == THREADS


def test_limit_ends_on_exception() -> None:
    with pytest.raises(ZeroDivisionError), ThreadLimit(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == THREADS


def test_interrupted_limit_ends_with_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_num_threads = torch.set_num_threads
    limit = ThreadLimit(1)
    for calls_before in (0, 1):
        calls = iter([None] * calls_before)

        def interrupted(threads: int, calls: Iterator[None] = calls) -> None:
            next(calls)
            set_num_threads(threads)

        monkeypatch.setattr(torch, "set_num_threads", interrupted)
        with pytest.raises(StopIteration), limit:
            pass
        monkeypatch.setattr(torch, "set_num_threads", set_num_threads)
        with limit:
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == THREADS
    set_num_threads(THREADS - 1)
    with limit:
        pass
    assert torch.get_num_threads() == THREADS - 1


def test_nested_limits_of_python_threads_restore_all_threads() -> None:
    """Also where a thread uses torch for the first time while another one is inside a limit."""
    after = []

    def other() -> None:
        with ThreadLimit(2):
            after.append(torch.get_num_threads())
        after.append(torch.get_num_threads())

    with ThreadLimit(1):
        thread = Thread(target=other)
        thread.start()
        thread.join()
    assert after == [2, THREADS]
    assert torch.get_num_threads() == THREADS


def test_stream_uses_one_thread_and_restores_callers(threads_of_products: list[int]) -> None:
    stream = Sampler(model_of(), Vocabulary(list("abc")), SampleSettings(length=4, seed=1)).stream()
    assert [torch.get_num_threads() for _ in stream] == [THREADS] * 4
    assert set(threads_of_products) == {1}


def test_large_steps_use_several_threads(threads_of_products: list[int]) -> None:
    assert count_useful_threads(2048 * 256, lanes=1) == 1
    assert count_useful_threads(16384 * 2048, lanes=1) >= THREADS
    lanes = 512
    Stepper(model_of(128), lanes).step(np.zeros(lanes, dtype=np.int64))
    assert set(threads_of_products) == {THREADS}
