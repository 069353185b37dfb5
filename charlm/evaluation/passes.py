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

from charlm.corpus.encoded import Ids
from charlm.model.device import autocast, full_fp32
from charlm.model.language_model import CharacterModel, evaluating

WARM_UP = 1000  # characters that a lane reads before those that count; what lies further back hardly matters
CHARACTERS_A_LANE = 4 * WARM_UP  # at the least, so that warming up stays a small part of the work
MOST_LANES = 64
CHUNK = 256  # steps of one forward pass; bounds the memory of the logits, never changes the figure


@dataclass(frozen=True)
class Evaluation:
    """``nats_per_character`` is the mean cross entropy over all ``characters``, each counted once."""

    nats_per_character: float
    characters: int

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)


def lanes_for(characters: int) -> int:
    """As many lanes as keep the warming up short."""
    return max(1, min(MOST_LANES, characters // CHARACTERS_A_LANE))


@torch.inference_mode()
def evaluate(
    model: CharacterModel,
    ids: Ids,
    lanes: int = 1,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: Callable[[int], object] = lambda characters: None,
) -> Evaluation:
    """The mean loss of ``model`` over the text ``ids``, ``(characters,)``.

    With one lane in fp32 this is the exact figure: the whole text is one sequence, its state carried. Several lanes are
    faster and an approximation: each reads ``WARM_UP`` characters before its own, from a state of zero.
    ``on_progress`` is told the characters read since it was told last.
    """
    with evaluating(model), full_fp32() if precision == "fp32" else nullcontext():
        return _evaluate(model, ids, lanes, precision, chunk, on_progress)


def _evaluate(
    model: CharacterModel, ids: Ids, lanes: int, precision: str, chunk: int, on_progress: Callable[[int], object]
) -> Evaluation:
    device = model.output_bias.device
    lanes = min(lanes, max(1, len(ids) // WARM_UP))
    lane_length = -(-len(ids) // lanes)
    warm_up = WARM_UP if lanes > 1 else 0
    lane_starts = np.arange(lanes) * lane_length
    state = model.zero_state(lanes)
    total = 0.0
    for first, last in _chunks(-warm_up, lane_length, chunk):
        positions = np.arange(first - 1, last)[:, None] + lane_starts  # of what is read and, one later, predicted
        here = ids[np.clip(positions, 0, len(ids) - 1)].astype(np.int64)
        here[positions < 0] = model.vocabulary_size  # the start symbol
        if first == 0:  # the first lane has nothing to warm up on: whatever it read so far is forgotten
            for part in state:
                part[:, 0] = 0
        with autocast(device, precision):
            logits, state = model(torch.from_numpy(here[:-1]).to(device), state)
        if first >= 0:
            targets = torch.from_numpy(np.where(positions[1:] < len(ids), here[1:], -100)).to(device)
            losses = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
            total += losses.cpu().sum(dtype=torch.float64).item()  # not every device has float64
        on_progress((last - first) * lanes)
    return Evaluation(total / len(ids), len(ids))


def _chunks(first: int, last: int, chunk: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover ``first`` to ``last``, none across 0."""
    edges = [*range(first, 0, chunk), *range(0, last, chunk), last]
    return list(itertools.pairwise(edges))
