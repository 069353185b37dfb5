"""One pass over a text: exact, or side by side in lanes.

Every character is predicted exactly once, from all the text before it, the first one from the start symbol.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from charlm.corpus.batches import IGNORED
from charlm.corpus.text import Text
from charlm.model.device import autocast, full_fp32, on_device
from charlm.model.language_model import CharacterModel, evaluating

WARM_UP = 1000  # characters that a lane reads before those that count; what lies further back hardly matters
CHARACTERS_A_LANE = 4 * WARM_UP  # at the least, so that warming up stays a small part of the work
MOST_LANES = 64
CHUNK = 256  # steps of one forward pass, never changes the figure
MOST_LOGITS = 1 << 25  # of one forward pass: with a large vocabulary it has fewer steps


@dataclass(frozen=True)
class Evaluation:
    """``nats_per_character`` is the mean cross entropy over all ``characters``, each counted once.

    Of these, ``unknown`` are not in the vocabulary: each costs what the unknown symbol does, and what it takes to say
    which of all other characters it is, so that models of different vocabularies can be compared.
    """

    nats_per_character: float
    characters: int
    unknown: int = 0

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)


def lanes_for(characters: int) -> int:
    """As many lanes as keep the warming up short."""
    return max(1, min(MOST_LANES, characters // CHARACTERS_A_LANE))


@torch.inference_mode()
def evaluate(
    model: CharacterModel,
    text: Text,
    lanes: int = 1,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: Callable[[int], object] = lambda characters: None,
) -> Evaluation:
    """The mean loss of ``model`` over a text.

    With one lane in fp32 this is the exact figure: the whole text is one sequence, its state carried, and reset where a
    document begins. Several lanes are
    faster and an approximation: each reads ``WARM_UP`` characters before its own, from a state of zero.
    ``on_progress`` is told the characters read since it was told last.
    """
    with evaluating(model), full_fp32() if precision == "fp32" else nullcontext():
        return _evaluate(model, text, lanes, precision, chunk, on_progress)


def _evaluate(
    model: CharacterModel, text: Text, lanes: int, precision: str, chunk: int, on_progress: Callable[[int], object]
) -> Evaluation:
    device = model.output_bias.device
    lanes = min(lanes, max(1, len(text) // WARM_UP))
    lane_length = -(-len(text) // lanes)
    warm_up = WARM_UP if lanes > 1 else 0
    lane_starts = np.arange(lanes) * lane_length
    state = model.zero_state(lanes)
    total, unknown = 0.0, 0
    chunk = max(1, min(chunk, MOST_LOGITS // (lanes * model.vocabulary_size)))
    for first, last in _chunks(-warm_up, lane_length, chunk):
        positions = np.arange(first - 1, last)[:, None] + lane_starts  # of what is read and, one later, predicted
        here = text[np.clip(positions, 0, len(text) - 1)]
        inputs, targets = here[:-1], np.where(positions[1:] < len(text), here[1:], IGNORED)
        resets = text.begins(positions[1:])
        inputs[positions[:-1] < 0] = text.vocabulary.start_id
        if resets is not None:
            inputs[resets] = text.vocabulary.start_id
        if first == 0:  # the first lane has nothing to warm up on: whatever it read so far is forgotten
            for part in state:
                part[:, 0] = 0
        with autocast(device, precision):
            logits, state = model(on_device(inputs, device), state, on_device(resets, device))
        if first >= 0:
            expected = on_device(targets, device).flatten()
            losses = functional.cross_entropy(logits.float().flatten(0, 1), expected, reduction="none")
            total += losses.cpu().sum(dtype=torch.float64).item()  # not every device has float64
            unknown += int(np.count_nonzero(targets == text.vocabulary.unknown_id))
        on_progress((last - first) * lanes)
    total += unknown * text.vocabulary.unknown_nats if unknown else 0.0
    return Evaluation(total / len(text), len(text), unknown)


def _chunks(first: int, last: int, chunk: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover ``first`` to ``last``, none across 0."""
    edges = [*range(first, 0, chunk), *range(0, last, chunk), last]
    return list(itertools.pairwise(edges))
