"""Filter logits and sample the next character.

In numpy and double precision: for a few hundred characters, a numpy call takes a third of the time of a torch call, and
results do not depend on the number of parallel samples.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import UsageError

GREEDY_BELOW = 1e-100  # temperatures too small to divide logits by

Weights = NDArray[np.float64]


def make_mask(vocabulary: Vocabulary, settings: SampleSettings) -> Weights:
    """The mask to add to the logits, ``(vocabulary,)``: 0 for allowed characters, minus infinity for others.

    The unknown token is never allowed. Raises ``UsageError`` if nothing is left, or for multi-byte characters with a
    byte-level model.
    """
    if vocabulary.unit == "byte" and not (settings.ban + settings.allow).isascii():
        raise UsageError(
            "--ban and --allow accept only ASCII characters for a byte-level model.",
            "Other characters are several bytes long.",
        )
    allowed = set(vocabulary.to_units(settings.allow) or vocabulary.characters) - set(vocabulary.to_units(settings.ban))
    mask = np.full(len(vocabulary), -np.inf)
    mask[[id_ for id_, character in enumerate(vocabulary.characters) if character in allowed]] = 0
    if not np.isfinite(mask).any():
        raise UsageError(
            "--allow and --ban leave no character to generate.",
            "Allow more or ban fewer; charlm info lists the model's characters.",
        )
    return mask


def filter_logits(logits: NDArray[Any], mask: Weights, settings: SampleSettings) -> Weights:
    """Sampling weights ``(lane, vocabulary)``, proportional to probabilities, from logits of the same shape.

    The filters apply in this order, each to the result of the previous one:

    1. ``mask`` takes away what must never be drawn.
    2. ``temperature`` divides the logits (Ackley, Hinton and Sejnowski 1985); at 0 all weight is on the most probable
       character.
    3. ``top_k`` keeps the k most probable ones (Fan et al. 2018, section 5.1), 0 keeps all.
    4. ``top_p`` keeps the fewest that are at least this probable together (Holtzman et al. 2020, section 3.1).
    5. ``min_p`` keeps those at least so probable as this part of the most probable one (Nguyen et al. 2024, section 3).

    Of equally probable characters, those of lower ids come first.
    """
    weights: Weights = logits + mask
    if settings.temperature < GREEDY_BELOW:
        most_probable = weights.argmax(-1, keepdims=True)
        return np.where(np.arange(weights.shape[-1]) == most_probable, 1.0, 0.0)
    weights -= weights.max(-1, keepdims=True)
    weights /= settings.temperature
    np.exp(weights, out=weights)
    if 0 < settings.top_k < weights.shape[-1] or settings.top_p < 1:
        _apply_top_k_top_p(weights, settings)
    if settings.min_p:
        weights[weights < settings.min_p] = 0  # the largest weight is 1
    return weights


def _apply_top_k_top_p(weights: Weights, settings: SampleSettings) -> None:
    """top_k and top_p, in place."""
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, -1)
    if settings.top_k:
        ordered[..., settings.top_k :] = 0
    if settings.top_p < 1:
        cumulative = ordered.cumsum(-1)
        ordered[cumulative - ordered >= settings.top_p * cumulative[..., -1:]] = 0
    np.put_along_axis(weights, order, ordered, -1)


def sample_ids(weights: Weights, uniform: NDArray[np.float64]) -> tuple[NDArray[np.intp], Weights]:
    """Sample one id per lane in proportion to the weights; returns ids and log-probabilities in nats.

    ``uniform``: ``(lane,)``, from 0 to below 1. Each id is the first whose cumulative weight exceeds that fraction of
    the total (Devroye 1986, section III.2). It exists, because rounding never brings the product up to the total.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    ids = (cumulative <= (uniform * total)[:, None]).sum(-1)
    return ids, np.log(weights[np.arange(len(ids)), ids] / total)
