"""From logits to what is drawn: each filter against a plain reference, and draws against their weights."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError
from charlm.generation.filters import Weights, filter_logits, make_mask, sample_ids

NUMBERS = st.integers(-300, 300).map(lambda tenths: tenths / 10)
LOGITS = st.lists(NUMBERS, min_size=1, max_size=20).map(lambda numbers: np.array(numbers, dtype=np.float32))
SETTINGS = st.builds(
    SampleSettings,
    temperature=st.integers(0, 300).map(lambda hundredths: hundredths / 100),
    top_k=st.integers(0, 25),
    top_p=st.integers(1, 100).map(lambda hundredths: hundredths / 100),
    min_p=st.integers(0, 100).map(lambda hundredths: hundredths / 100),
)


def probabilities(logits: "list[float] | Weights", mask: Weights | None = None, **settings: float) -> Weights:
    """Those of one lane, with temperature 1 where nothing else is said."""
    given_ = SampleSettings(**{"temperature": 1.0, **settings})
    weights = filter_logits(np.array(logits)[None], np.zeros(len(logits)) if mask is None else mask, given_)[0]
    return weights / weights.sum()


def reference(logits: list[float], banned: set[int], settings: SampleSettings) -> list[float]:
    """The same, number by number: a list of survivors, the most probable first, that gets shorter."""
    survivors = sorted((id_ for id_ in range(len(logits)) if id_ not in banned), key=lambda id_: (-logits[id_], id_))
    if settings.temperature == 0:
        survivors = survivors[:1]
    heat = settings.temperature or 1.0
    weights = {id_: math.exp((logits[id_] - logits[survivors[0]]) / heat) for id_ in survivors}
    if settings.top_k:
        survivors = survivors[: settings.top_k]
    whole, nucleus, together = sum(weights[id_] for id_ in survivors), [], 0.0
    for id_ in survivors:
        if nucleus and settings.top_p < 1 and together >= settings.top_p * whole:
            break
        nucleus.append(id_)
        together += weights[id_]
    survivors = [id_ for id_ in nucleus if weights[id_] >= settings.min_p * weights[nucleus[0]]]
    whole = sum(weights[id_] for id_ in survivors)
    return [weights[id_] / whole if id_ in survivors else 0.0 for id_ in range(len(logits))]


@given(logits=LOGITS, settings=SETTINGS, data=st.data())
def test_combined_filters_match_reference(logits: Weights, settings: SampleSettings, data: st.DataObject) -> None:
    banned = data.draw(st.sets(st.integers(0, len(logits) - 1), max_size=len(logits) - 1))
    mask = np.array([-np.inf if id_ in banned else 0.0 for id_ in range(len(logits))])
    before = logits.copy()
    weights = filter_logits(logits[None], mask, settings)[0]
    expected = reference(logits.astype(float).tolist(), banned, settings)
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=1e-9, atol=1e-12)
    assert np.array_equal(logits, before)


def test_known_values() -> None:
    logits = [math.log(part) for part in (1, 5, 4)]
    np.testing.assert_allclose(probabilities(logits), [0.1, 0.5, 0.4])
    np.testing.assert_allclose(probabilities(logits, temperature=0.5), [1 / 42, 25 / 42, 16 / 42])
    np.testing.assert_allclose(probabilities(logits, top_k=2), [0, 5 / 9, 4 / 9])
    np.testing.assert_allclose(probabilities(logits, top_p=0.6), [0, 5 / 9, 4 / 9])
    np.testing.assert_allclose(probabilities(logits, top_p=0.95), [0.1, 0.5, 0.4])
    np.testing.assert_allclose(probabilities(logits, top_p=0.3), [0, 1, 0])
    np.testing.assert_allclose(probabilities(logits, min_p=0.21), [0, 5 / 9, 4 / 9])
    np.testing.assert_allclose(probabilities(logits, min_p=0.81), [0, 1, 0])
    np.testing.assert_allclose(probabilities(logits, temperature=0), [0, 1, 0])


def test_filters_apply_in_sequence() -> None:
    logits = [math.log(part) for part in (40, 30, 20, 10)]
    np.testing.assert_allclose(probabilities(logits, top_p=0.55), [4 / 7, 3 / 7, 0, 0])
    np.testing.assert_allclose(probabilities(logits, top_k=2, top_p=0.55), [1, 0, 0, 0])  # 40 of 70 is beyond 0.55
    hot = 1 / 2**10  # then all are as good as equal, and a nucleus holds three where it held two
    assert (probabilities(logits, top_p=0.55, temperature=1 / hot) > 0).tolist() == [True, True, True, False]
    mask = np.array([-np.inf, 0, 0, 0])  # the most probable is banned: min_p is beside the best of the others
    np.testing.assert_allclose(probabilities(logits, mask, min_p=0.6), [0, 0.6, 0.4, 0])
    np.testing.assert_allclose(probabilities(logits, mask, temperature=0), [0, 1, 0, 0])


def test_ties_keep_lower_ids() -> None:
    assert probabilities([0, 2, 1, 1, 1, 1], top_k=3).nonzero()[0].tolist() == [1, 2, 3]
    assert probabilities([0.0] * 100, top_k=4).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert probabilities([0.0] * 100, top_p=0.035).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert probabilities([0.0] * 100, temperature=0)[0] == 1


def test_lanes_are_filtered_independently() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 9))
    for settings in (SampleSettings(temperature=0), SampleSettings(), SampleSettings(top_k=4, top_p=0.8, min_p=0.1)):
        alone = [filter_logits(row[None], np.zeros(9), settings)[0] for row in logits]
        assert np.array_equal(filter_logits(logits, np.zeros(9), settings), alone)


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-300, 5e-324])
def test_tiny_temperature_is_greedy(temperature: float) -> None:
    np.testing.assert_allclose(probabilities([-3.0, 1.0, 4.0, -2.0], temperature=temperature), [0, 0, 1, 0])


@pytest.mark.parametrize("temperature", [1e6, 1e308])
def test_huge_temperature_is_uniform(temperature: float) -> None:
    np.testing.assert_allclose(probabilities([1.0, 2.0], temperature=temperature), [0.5, 0.5], atol=1e-6)


def allowed(**settings: str) -> str:
    vocabulary = Vocabulary(list("abcd"))
    mask = make_mask(vocabulary, SampleSettings(**settings))
    assert set(mask.tolist()) <= {0.0, -math.inf}
    return vocabulary.decode(np.flatnonzero(mask == 0).tolist())


def test_ban_and_allow_masks() -> None:
    assert allowed() == "abcd"
    assert allowed(ban="bz") == "acd"
    assert allowed(allow="dzb") == "bd"
    assert allowed(allow="abc", ban="b") == "ac"


@pytest.mark.parametrize("settings", [{"ban": "dcba"}, {"allow": "xyz"}, {"allow": "ab", "ban": "ba"}])
def test_empty_mask_is_rejected(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="leave no character"):
        allowed(**settings)


def test_sampling_inverts_cumulative_weights() -> None:
    weights = np.array([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    uniform = np.array([0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2**-53])
    ids, log_probabilities = sample_ids(np.tile(weights, (6, 1)), uniform)
    assert ids.tolist() == [1, 1, 3, 3, 4, 4]
    np.testing.assert_allclose(log_probabilities, np.log([0.5, 0.5, 0.25, 0.25, 0.25, 0.25]))


@given(weights=st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda weights: max(weights) > 1e-3))
def test_largest_uniform_number_samples_nonzero_weight(weights: list[float]) -> None:
    ids, log_probabilities = sample_ids(np.array([weights]), np.array([1 - 2**-53]))
    assert weights[ids[0]] > 0
    assert math.isfinite(log_probabilities[0])


def test_sampled_frequencies_match_weights() -> None:
    weights = np.array([0.5, 3.0, 0.0, 1.5, 1.0, 4.0])
    ids, _ = sample_ids(np.tile(weights, (20000, 1)), np.random.default_rng(1).random(20000))
    counts, expected = np.bincount(ids, minlength=6), weights / weights.sum() * 20000
    likely = expected > 0
    assert counts[~likely].sum() == 0
    assert (((counts - expected) ** 2)[likely] / expected[likely]).sum() < 18.5  # 4 degrees of freedom: one in 1,000
