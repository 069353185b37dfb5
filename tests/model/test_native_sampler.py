"""The native sampler: its steps against the model's, its draws against those of the filters."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from charlm.config import ModelSettings, SampleSettings
from charlm.generation.filters import filter_logits, sample_ids
from charlm.model.kernels.sampler import NativeSampler
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import make_native_sampler
from tests.model.test_native import needs_native

pytestmark = needs_native
VOCABULARY, TIME = 13, 20


def model_of(num_layers: int = 2, hidden_size: int = 16, tied: bool = False) -> CharacterModel:
    torch.manual_seed(0)
    sizes = {"num_layers": num_layers, "hidden_size": hidden_size, "embedding_size": hidden_size if tied else 8}
    model = CharacterModel(VOCABULARY, ModelSettings(**sizes, tie_weights=tied)).eval()
    for layer in model.recurrent.layers:
        nn.init.normal_(layer.bias)
    nn.init.normal_(model.output_bias)
    return model


def sampler_of(model: CharacterModel, lanes: int, **options: Any) -> NativeSampler:
    sampler = make_native_sampler(model, lanes)
    sampler.set_state(model.zero_state(1))
    configure(sampler, SampleSettings(**options))
    sampler.read(np.full(lanes, VOCABULARY))
    return sampler


def configure(sampler: NativeSampler, options: SampleSettings, mask: Any = 0, pauses: Any = 0) -> None:
    sampler.configure(options.temperature, options.top_k, options.top_p, options.min_p, mask, pauses)


def logits_of(model: CharacterModel, ids: torch.Tensor) -> torch.Tensor:
    """``(time, lane, vocabulary)``, from a state of zero."""
    sampler, logits = sampler_of(model, ids.shape[1]), []
    for row in ids.numpy():
        sampler.read(row)
        logits.append(sampler.advance().copy())
    return torch.from_numpy(np.stack(logits))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("hidden_size", [1, 8, 33, 70])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_steps_are_near_the_models_and_lanes_are_independent(num_layers: int, hidden_size: int, tied: bool) -> None:
    model = model_of(num_layers, hidden_size, tied)
    ids = torch.randint(VOCABULARY, (TIME, 5))
    ids[0] = VOCABULARY
    with torch.no_grad():
        exact, _ = model(ids, model.zero_state(5))
    rounded = logits_of(model, ids)
    difference = (torch.log_softmax(exact, -1) - torch.log_softmax(rounded, -1)).abs()
    assert difference.mean() < 0.02
    for lanes in (1, 2, 4):
        assert torch.equal(logits_of(model, ids[:, :lanes]), rounded[:, :lanes])


@settings(max_examples=60)
@given(
    temperature=st.sampled_from([0.0, 0.2, 0.8, 1.0, 3.0]),
    top_k=st.integers(0, VOCABULARY + 1),
    top_p=st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    allowed=st.integers(1, 2**VOCABULARY - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_draws_are_those_of_the_filters(
    temperature: float, top_k: int, top_p: float, min_p: float, allowed: int, seed: int
) -> None:
    options = SampleSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    mask = np.array([0.0 if allowed >> id_ & 1 else -np.inf for id_ in range(VOCABULARY)])
    sampler = sampler_of(model_of(), 3)
    configure(sampler, options, mask)
    sampler.advance()[:] = np.random.default_rng(seed).normal(size=(3, VOCABULARY))
    logits = sampler.logits.copy()
    uniform = np.random.default_rng(seed + 1).random((1, 3))
    ids, nats = sampler.sample(uniform)
    expected_ids, expected_nats = sample_ids(filter_logits(logits, mask, options), uniform[0])
    assert ids[0].tolist() == expected_ids.tolist()
    np.testing.assert_allclose(nats[0], expected_nats, atol=1e-5)
    assert all(allowed >> id_ & 1 for id_ in ids[0])


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_many_steps_in_a_call_are_those_of_many_calls_in_any_number_of_threads(lanes: int) -> None:
    model, uniform = model_of(hidden_size=40), np.random.default_rng(1).random((30, lanes))
    at_once, nats = sampler_of(model, lanes).sample(uniform)
    assert at_once.shape == (30, lanes)
    one_by_one = sampler_of(model, lanes)
    assert np.array_equal(np.concatenate([one_by_one.sample(row[None])[0] for row in uniform]), at_once)
    for threads in (2, 3):
        sampler = sampler_of(model, lanes)
        sampler._set_threads = lambda steps=1: None
        sampler.struct.num_threads = threads
        ids, other_nats = sampler.sample(uniform)
        assert np.array_equal(ids, at_once)
        assert np.array_equal(other_nats, nats)


def test_a_call_ends_behind_an_id_that_pauses() -> None:
    uniform = np.random.default_rng(1).random((40, 2))
    ids, _ = sampler_of(model_of(), 2).sample(uniform)
    pausing = ids[5, 1]
    sampler = sampler_of(model_of(), 2)
    configure(sampler, SampleSettings(), pauses=np.arange(VOCABULARY) == pausing)
    first, _ = sampler.sample(uniform)
    assert len(first) == 1 + np.flatnonzero((ids == pausing).any(1))[0]
    rest, _ = sampler.sample(uniform[len(first) :][:1])
    assert np.array_equal(np.concatenate([first, rest]), ids[: len(first) + 1])


def test_some_lanes_can_start_anew() -> None:
    model = model_of()
    ids = torch.randint(VOCABULARY, (8, 2))
    sampler = sampler_of(model, 2)
    for row in ids[:4].numpy():
        sampler.read(row)
        sampler.advance()
    sampler.set_state(model.zero_state(1), [1])
    for row in ids[4:].numpy():
        sampler.read(row)
        logits = sampler.advance().copy()
    whole, fresh = logits_of(model, ids[:, :1]), logits_of(model, ids[4:, 1:])
    assert np.array_equal(logits[0], whole[-1, 0])
    assert np.array_equal(logits[1], fresh[-1, 0])


def test_what_is_not_a_number_still_gives_ids() -> None:
    model = model_of()
    model.output_bias.data.fill_(float("nan"))
    ids, _ = sampler_of(model, 2).sample(np.random.default_rng(1).random((5, 2)))
    assert ((ids >= 0) & (ids < VOCABULARY)).all()
