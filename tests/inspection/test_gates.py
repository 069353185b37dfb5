"""How saturated gates are, and how long a cell remembers."""

import numpy as np
import pytest
import torch

from charlm.inspection.gates import MAX_TIME_CONSTANT, GateCounter, GateUse, LayerUse


def test_gates_are_counted_over_all_windows() -> None:
    counter = GateCounter(("forget", "candidate"), 2)
    counter.add({"forget": torch.tensor([[0.05, 0.95], [0.5, 0.95]]), "candidate": torch.zeros(2, 2)})
    counter.add({"forget": torch.tensor([[0.0, 0.5], [0.05, 1.0]]), "candidate": torch.zeros(2, 2)})
    use = counter.result().gates["forget"]
    assert set(counter.result().gates) == {"forget"}
    np.testing.assert_allclose(use.closed, [0.75, 0])
    np.testing.assert_allclose(use.open, [0, 0.75])
    np.testing.assert_allclose(use.mean, [0.15, 0.85])


def use_of(mean: list[float]) -> GateUse:
    return GateUse(np.zeros(len(mean)), np.zeros(len(mean)), np.array(mean))


@pytest.mark.parametrize("name", ["forget", "update"])
def test_what_is_kept_at_every_step_is_down_to_1_in_e_after_the_time_constant(name: str) -> None:
    constants = LayerUse({name: use_of([0.5, 0.9, 0.99])}).time_constants
    assert constants is not None
    np.testing.assert_allclose(np.array([0.5, 0.9, 0.99]) ** constants, np.exp(-1))


def test_gates_that_never_close_and_never_open_have_a_time_constant_too() -> None:
    constants = LayerUse({"forget": use_of([1.0, 0.0])}).time_constants
    assert constants is not None
    assert constants[0] == pytest.approx(MAX_TIME_CONSTANT, rel=1e-3)
    assert 0 < constants[1] < 0.1


def test_without_gates_there_is_none() -> None:
    assert LayerUse({}).time_constants is None
