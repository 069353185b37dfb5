"""From logits to the distribution that is drawn from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from charlm.generation.filters import distribution

LOGITS = st.lists(st.integers(-300, 300).map(lambda tenths: tenths / 10), min_size=1, max_size=20).map(torch.tensor)
TEMPERATURES = st.integers(0, 300).map(lambda hundredths: hundredths / 100)


def greedy(logits: Tensor) -> Tensor:
    probabilities = torch.zeros_like(logits)
    probabilities[logits.argmax()] = 1
    return probabilities


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(0, 25))
def test_it_is_a_distribution_over_at_most_k_characters(logits: Tensor, temperature: float, top_k: int) -> None:
    probabilities = distribution(logits, temperature, top_k)
    assert probabilities.shape == logits.shape
    assert (probabilities >= 0).all()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    if top_k:
        assert (probabilities > 0).sum() <= top_k


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(0, 25))
def test_the_more_probable_stay_the_more_probable(logits: Tensor, temperature: float, top_k: int) -> None:
    probabilities = distribution(logits, temperature, top_k)
    more = logits[:, None] > logits
    assert (probabilities[:, None] >= probabilities)[more].all()


@given(logits=LOGITS, temperature=TEMPERATURES, top_k=st.integers(0, 25))
def test_the_logits_given_stay_as_they_were(logits: Tensor, temperature: float, top_k: int) -> None:
    before = logits.clone()
    distribution(logits, temperature, top_k)
    assert torch.equal(logits, before)


@given(logits=LOGITS)
def test_temperature_one_and_all_characters_is_the_models_own_distribution(logits: Tensor) -> None:
    torch.testing.assert_close(distribution(logits, 1.0, 0), torch.softmax(logits, -1))


@given(logits=LOGITS, temperature=st.integers(20, 300).map(lambda hundredths: hundredths / 100))
def test_temperature_raises_the_probabilities_to_its_inverse(logits: Tensor, temperature: float) -> None:
    powers = torch.softmax(logits.double(), -1) ** (1 / temperature)
    torch.testing.assert_close(distribution(logits.double(), temperature, 0), powers / powers.sum())


@given(logits=LOGITS, top_k=st.integers(0, 25))
def test_temperature_zero_is_greedy_whatever_k(logits: Tensor, top_k: int) -> None:
    assert torch.equal(distribution(logits, 0.0, top_k), greedy(logits))


@given(logits=LOGITS, temperature=st.integers(1, 300).map(lambda hundredths: hundredths / 100))
def test_top_1_is_greedy_whatever_the_temperature(logits: Tensor, temperature: float) -> None:
    assert torch.equal(distribution(logits, temperature, 1), greedy(logits))


@given(logits=LOGITS, more=st.integers(0, 5))
def test_k_of_the_whole_vocabulary_or_beyond_changes_nothing(logits: Tensor, more: int) -> None:
    assert torch.equal(distribution(logits, 0.7, len(logits) + more), distribution(logits, 0.7, 0))


@given(logits=LOGITS, top_k=st.integers(1, 20))
def test_top_k_keeps_the_proportions_of_what_it_keeps(logits: Tensor, top_k: int) -> None:
    logits = logits / 10  # so that none vanishes
    all_, kept = distribution(logits, 1.0, 0), distribution(logits, 1.0, top_k)
    chosen = kept > 0
    assert chosen.sum() == min(top_k, len(logits))
    torch.testing.assert_close(kept[chosen], all_[chosen] / all_[chosen].sum())


def test_of_equally_probable_characters_those_of_lower_ids_are_kept() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    assert distribution(logits, 1.0, 3).nonzero().flatten().tolist() == [1, 2, 3]
    assert distribution(torch.zeros(100), 1.0, 4).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert distribution(torch.zeros(100), 1.0, 1)[0] == 1
    assert distribution(torch.zeros(100), 0.0, 0)[0] == 1


def test_each_lane_has_a_distribution_of_its_own() -> None:
    logits = torch.randn(3, 9)
    for temperature, top_k in ((0.0, 0), (0.5, 0), (1.0, 4)):
        together = distribution(logits, temperature, top_k)
        alone = torch.stack([distribution(row, temperature, top_k) for row in logits])
        torch.testing.assert_close(together, alone)


def test_known_values() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]]).log()
    torch.testing.assert_close(distribution(logits, 1.0, 0), torch.tensor([[1 / 6, 3 / 6, 2 / 6]]))
    torch.testing.assert_close(distribution(logits, 0.5, 0), torch.tensor([[1 / 14, 9 / 14, 4 / 14]]))
    torch.testing.assert_close(distribution(logits, 1.0, 2), torch.tensor([[0, 3 / 5, 2 / 5]]))


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-45, 5e-324])
def test_next_to_no_temperature_is_as_good_as_none(temperature: float) -> None:
    logits = torch.tensor([-3.0, 1.0, 4.0, -2.0])
    torch.testing.assert_close(distribution(logits, temperature, 0), greedy(logits))


@pytest.mark.parametrize("temperature", [1e6, 1e308])
def test_a_huge_temperature_is_even_chance(temperature: float) -> None:
    torch.testing.assert_close(distribution(torch.tensor([1.0, 2.0]), temperature, 0), torch.tensor([0.5, 0.5]))
