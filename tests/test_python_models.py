"""A model survives what programs do with objects: copies, pickling, threads, streams that are read in turns."""

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import charlm
from charlm.evaluation.context import independent_window_loss
from charlm.evaluation.scores import score_characters
from charlm.model.device import no_tf32
from charlm.model.stepper import MAX_IDLE, StepperPool
from tests.commands.conftest import trained

__all__ = ["trained"]  # a fixture


@pytest.fixture
def model(trained: Path) -> charlm.Model:
    return charlm.load(trained)


def text_of(model: charlm.Model, **options: Any) -> str:
    return model.sample("Die", length=30, seed=3, **options)


Copy = Callable[[charlm.Model], charlm.Model]


@pytest.mark.parametrize("sampled_before", [False, True])
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copied_model_generates_the_same(model: charlm.Model, make: Copy, sampled_before: bool) -> None:
    expected = text_of(model) if sampled_before else None
    half_read = model.stream("Die", length=30, seed=3)
    if sampled_before:
        next(half_read)
    other = make(model)
    assert text_of(other) == text_of(model)
    assert expected in (None, text_of(model))
    assert other.evaluate("Die Schafe") == model.evaluate("Die Schafe")
    assert other.settings == model.settings


def test_deep_copy_is_independent(model: charlm.Model) -> None:
    expected = text_of(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.zero_()
    assert text_of(model) == expected != text_of(other)


def test_concurrent_sampling_equals_sequential(model: charlm.Model) -> None:
    def sample(seed: int) -> list[str]:
        precision = "fp32" if seed % 2 else "auto"
        options = {"length": 40, "seed": seed, "num_samples": 1 + seed % 3, "precision": precision}
        return [sample.text for sample in model.sample_many("Die", **options)]

    expected = [sample(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sample, range(24))) == expected


def test_pooled_stepper_is_not_borrowed_twice(model: charlm.Model) -> None:
    steppers = StepperPool(model.network)
    with steppers.borrow(1, "fp32") as first, steppers.borrow(1, "fp32") as second:
        assert first is not second
    with steppers.borrow(1, "fp32") as again:
        assert again in (first, second)


def test_stepper_pool_is_bounded(model: charlm.Model) -> None:
    for number in range(1, 9):
        text_of(model, num_samples=number)
        assert len(model._stepper_pool.idle) <= MAX_IDLE
    streams = [model.stream("Die", length=5, seed=number) for number in range(5)]
    for _ in range(4):
        for stream in streams:
            next(stream)
    del streams
    assert len(model._stepper_pool.idle) <= MAX_IDLE
    assert MAX_IDLE <= 2


def process_wide() -> tuple[object, ...]:
    return (
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.backends.quantized.engine,
    )


@pytest.fixture
def other_settings() -> Any:
    """Those that :func:`no_tf32` changes, as a program may have them."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("what", ["stream", "stream auto", "scores", "windowed"])
@pytest.mark.usefixtures("other_settings")
def test_waiting_stream_leaves_process_settings_alone(model: charlm.Model, what: str) -> None:
    before, found = process_wide(), []
    text = model._encode_text("Die Schafe")
    if what == "windowed":
        independent_window_loss(model.network, text, 3, on_progress=lambda _: found.append(process_wide()))
    elif what == "scores":
        stretches = score_characters(model.network, text)
        next(stretches)
        found.append(process_wide())
    else:
        stream = model.stream("Die", length=9, seed=1, precision="auto" if "auto" in what else "fp32")
        found += [process_wide() for _ in stream]
    assert found
    if what != "windowed":  # told of the progress inside of one call
        assert set(found) == {before}
    assert {each[:2] for each in found} == {before[:2]}
    assert process_wide() == before
    assert before[:2] == ("tf32", "tf32")


@pytest.mark.usefixtures("other_settings")
def test_no_tf32_holds_until_last_thread_leaves() -> None:
    before = process_wide()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with no_tf32():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with no_tf32():
        thread.start()
        assert inside.wait(10)
    assert process_wide()[:2] == ("ieee", "ieee")
    leave.set()
    thread.join()
    assert process_wide() == before
