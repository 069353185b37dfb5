"""Which units track a property: a planted one is found, noise is not."""

import numpy as np
import pytest

from charlm.inspection.properties import PROPERTIES, Property
from charlm.inspection.tracking import MIN_OCCURRENCES, TrackedProperty, rank_units

LENGTH, UNITS = 2000, 60
TEXT = "".join(f'Line {number}: "quoted {number * 7}" (and more).\n' for number in range(LENGTH))[:LENGTH]


@pytest.fixture
def noise() -> list[np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(1)
    return [generator.normal(size=(LENGTH, UNITS)).astype(np.float32) for _ in range(2)]


def tracked(states: list[np.ndarray], name: str) -> TrackedProperty:  # type: ignore[type-arg]
    (found,) = rank_units(states, TEXT, [each for each in PROPERTIES if each.name == name])
    return found


def plant(states: list[np.ndarray], layer: int, unit: int, values: np.ndarray, noise: float = 0.3) -> None:  # type: ignore[type-arg]
    """A unit, counted from 1, that tracks these values."""
    spread = np.random.default_rng(2).normal(size=LENGTH) * noise
    states[layer - 1][:, unit - 1] = values / values.std() + spread


@pytest.mark.parametrize(
    "name", [each.name for each in PROPERTIES if each.name not in ("indentation", "in a speaker's name")]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_unit_ranks_first_and_noise_does_not(noise: list[np.ndarray], name: str, sign: int) -> None:  # type: ignore[type-arg]
    values = next(each for each in PROPERTIES if each.name == name).compute(TEXT)
    plant(noise, 2, 37, sign * values)
    found = tracked(noise, name)
    first, second = found.units[:2]
    assert (first.layer, first.unit, first.is_inverted) == (2, 37, sign < 0)
    assert first.score > (0.8 if found.is_number else 0.95)
    assert second.score < (0.1 if found.is_number else 0.65)
    assert found.num_characters == np.count_nonzero(values)


def test_a_unit_that_tracks_on_the_second_half_only_is_not_chosen(noise: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    values = np.array([character == '"' for character in TEXT], dtype=float)
    values = np.cumsum(values) % 2
    plant(noise, 1, 5, np.where(np.arange(LENGTH) < LENGTH // 2, 0, values))
    assert (1, 5) not in {(unit.layer, unit.unit) for unit in tracked(noise, "inside quotes").units}


def test_a_unit_that_tracks_on_the_first_half_only_is_exposed_by_the_second(noise: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    values = next(each for each in PROPERTIES if each.name == "position in line").compute(TEXT)
    plant(noise, 1, 5, np.where(np.arange(LENGTH) < LENGTH // 2, values, 0))
    first = tracked(noise, "position in line").units[0]
    assert (first.layer, first.unit) == (1, 5)
    assert first.fitted_score > 0.8
    assert first.score < 0.1


def test_units_that_never_change_are_at_chance(noise: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    flat = [np.zeros((LENGTH, 3), dtype=np.float32)]
    assert [unit.score for unit in tracked(flat, "digit").units] == [0.5] * 3
    assert [unit.score for unit in tracked(flat, "position in line").units] == pytest.approx([0] * 3, abs=0.01)


def test_the_area_is_the_chance_that_a_pair_is_in_order() -> None:
    """Against all pairs, counted one by one, with ties."""
    states = np.random.default_rng(3).integers(0, 4, (200, 1)).astype(np.float32)
    has_property = np.random.default_rng(4).integers(0, 2, 200).astype(float)
    (found,) = rank_units([states], "x" * 200, [Property("planted", False, lambda text: has_property)])
    half = states[100:, 0]
    yes, no = half[has_property[100:] > 0], half[has_property[100:] == 0]
    pairs = [(a > b) + (a == b) / 2 for a in yes for b in no]
    expected = float(np.mean(pairs))
    unit = found.units[0]
    assert unit.score == pytest.approx(1 - expected if unit.is_inverted else expected)


@pytest.mark.parametrize("text", ["", "a", "abc", "plain words " * 100])
def test_what_occurs_too_seldom_is_left_out(text: str) -> None:
    names = {each.name for each in rank_units([np.zeros((len(text), 2), dtype=np.float32)], text)}
    assert names <= {"inside a word", "position in line"}


@pytest.mark.parametrize("occurrences", [MIN_OCCURRENCES - 1, MIN_OCCURRENCES])
def test_twenty_occurrences_in_each_half_are_enough(occurrences: int) -> None:
    text = ("1" * MIN_OCCURRENCES).ljust(200) + ("1" * occurrences).ljust(200)
    states = np.zeros((400, 1), dtype=np.float32)
    found = {each.name for each in rank_units([states], text)}
    assert ("digit" in found) == (occurrences == MIN_OCCURRENCES)
