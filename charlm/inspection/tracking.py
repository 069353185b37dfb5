"""Which units track a property of the text: ranked on the first half of a text, reported on the second.

For yes-or-no properties the score is the area under the ROC curve: how often the unit's state is higher (or, for a unit
that works the other way round, lower) at a character with the property than at one without it; 0.5 is chance. For
numbers it is R², the share of the variance that a straight line through the unit's state explains.

Hundreds of units are compared, so the best one of a half always looks good on that half. What the other half says of it
is the honest score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.inspection.properties import PROPERTIES, Property

MIN_OCCURRENCES = 20  # characters in each half that have the property, and as many that do not
NUM_UNITS = 5  # that are reported for each property

States = NDArray[np.float32]  # (character, unit)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TrackingUnit:
    """A unit, ``layer`` and ``unit`` counted from 1. ``is_inverted``: its state falls where the property rises."""

    layer: int
    unit: int
    score: float  # on the second half
    fitted_score: float  # on the first half, which chose it
    is_inverted: bool


@dataclass(frozen=True)
class TrackedProperty:
    """``num_characters`` have the property (numbers: are not 0), in ``num_places`` separate stretches of the text."""

    name: str
    is_number: bool
    num_characters: int
    num_places: int
    units: tuple[TrackingUnit, ...]


def rank_units(
    memory: Sequence[States],
    text: str,
    properties: Sequence[Property] = PROPERTIES,
    count: int = NUM_UNITS,
) -> list[TrackedProperty]:
    """The units that track each property best, the best first, from the states of each layer.

    Properties that occur too seldom in one of the halves are left out. Those that are tracked best come first.
    """
    half = len(text) // 2
    values = {each: each.compute(text) for each in properties}
    values = {
        each: value for each, value in values.items() if _is_frequent(value[:half]) and _is_frequent(value[half:])
    }
    if not values:
        return []
    fitted: dict[Property, list[NDArray[np.float64]]] = {each: [] for each in values}
    reported: dict[Property, list[NDArray[np.float64]]] = {each: [] for each in values}
    for states in memory:
        ranks = [_average_ranks(part) for part in (states[:half], states[half:])]
        for each, value in values.items():
            if each.is_number:
                slope, offset = _fit_line(states[:half], value[:half])
                fitted[each].append(_r_squared(states[:half], value[:half], slope, offset) * np.sign(slope))
                reported[each].append(_r_squared(states[half:], value[half:], slope, offset))
            else:
                fitted[each].append(_roc_area(ranks[0], value[:half] > 0) - 0.5)
                reported[each].append(_roc_area(ranks[1], value[half:] > 0))
    tracked = [
        TrackedProperty(
            each.name,
            each.is_number,
            int(np.count_nonzero(value)),
            int(np.count_nonzero(np.diff(value != 0, prepend=False) & (value != 0))),
            _choose(each, np.stack(fitted[each]), np.stack(reported[each]), count),
        )
        for each, value in values.items()
    ]
    return sorted(tracked, key=lambda each: -each.units[0].score)


def _choose(
    each: Property, fitted: NDArray[np.float64], reported: NDArray[np.float64], count: int
) -> tuple[TrackingUnit, ...]:
    """The best units by the size of ``fitted``, whose sign is the direction; both ``(layer, unit)``."""
    best = np.argsort(-np.abs(fitted), axis=None, kind="stable")[:count]
    units = []
    for layer, unit in zip(*np.unravel_index(best, fitted.shape), strict=True):
        fit, score = float(fitted[layer, unit]), float(reported[layer, unit])
        is_inverted = fit < 0
        if not each.is_number:
            score = 1 - score if is_inverted else score
            fit = 0.5 + abs(fit)
        units.append(TrackingUnit(int(layer) + 1, int(unit) + 1, score, abs(fit), is_inverted))
    return tuple(units)


def _is_frequent(values: NDArray[np.float64]) -> bool:
    num_occurrences = np.count_nonzero(values)
    return bool(MIN_OCCURRENCES <= num_occurrences <= len(values) - MIN_OCCURRENCES)


def _average_ranks(states: States) -> NDArray[np.float64]:
    """Of each column, from 1; equal values share the mean of theirs."""
    ranks = np.empty(states.shape)
    for unit in range(states.shape[1]):
        column = np.ascontiguousarray(states[:, unit])
        ordered = np.sort(column)
        ranks[:, unit] = (np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right") + 1) / 2
    return ranks


def _roc_area(ranks: NDArray[np.float64], has_property: Mask) -> NDArray[np.float64]:
    """Of each unit: the Mann–Whitney statistic over the number of pairs."""
    positives, negatives = np.count_nonzero(has_property), np.count_nonzero(~has_property)
    area: NDArray[np.float64] = ranks[has_property].sum(0) - positives * (positives + 1) / 2
    return area / (positives * negatives)


def _fit_line(states: States, value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and offset of the least-squares line of each unit, ``(unit,)``."""
    mean = states.mean(0, dtype=np.float64)
    centered = states - mean
    variance = np.square(centered).mean(0)
    covariance = (centered * (value - value.mean())[:, None]).mean(0)
    slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
    return slope, value.mean() - slope * mean


def _r_squared(
    states: States, value: NDArray[np.float64], slope: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    errors = np.square(value[:, None] - (states * slope + offset)).mean(0)
    result: NDArray[np.float64] = 1 - errors / value.var()
    return result
