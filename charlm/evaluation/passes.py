"""One pass over a text: exact, or side by side in lanes.

Every character is predicted exactly once, from all the text before it, the first one from the start symbol.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.corpus.batches import IGNORED
from charlm.corpus.text import Positions, Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.model.device import autocast, full_fp32, on_device
from charlm.model.language_model import CharacterModel, evaluating

WARM_UP = 1000  # characters that a lane reads before those that count; what lies further back hardly matters
CHARACTERS_A_LANE = 4 * WARM_UP  # at the least, so that warming up stays a small part of the work
MOST_LANES = 64
CHUNK = 256  # steps of one forward pass, never changes the figure
MOST_LOGITS = 1 << 25  # of one forward pass: with a large vocabulary it has fewer steps

Losses = NDArray[np.float64]
OnProgress = Callable[[int], object]  # is told the characters read since it was told last


@dataclass(frozen=True)
class Evaluation:
    """``nats_per_character`` is the mean cross entropy over all ``characters``, each counted once.

    For a byte-level model, a character is a byte. ``unknown`` characters are not in the vocabulary: each costs the
    unknown token plus the cost of telling which of all other characters it is, so that models with different
    vocabularies can be compared. ``exact``: every character was predicted from all the text before it, in fp32.
    ``num_segments``: how many segments of the text were evaluated in parallel.
    """

    nats_per_character: float
    characters: int
    unknown: int = 0
    exact: bool = True
    num_segments: int = 1

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_character)

    def bits_per_byte(self, size_bytes: int) -> float:
        """For models of different units to be compared by: the whole text's bits over its bytes."""
        return self.bits_per_character * self.characters / size_bytes


def lanes_for(characters: int) -> int:
    """As many lanes as keep the warming up short."""
    return max(1, min(MOST_LANES, characters // CHARACTERS_A_LANE))


def count_characters_read(characters: int) -> int:
    """How many characters an evaluation of so many reads in ``lanes_for`` lanes, those to warm up on included."""
    lanes = lanes_for(characters)
    return characters + (WARM_UP * lanes if lanes > 1 else 0)


@torch.inference_mode()
def evaluate(
    model: CharacterModel,
    text: Text,
    lanes: int = 1,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: OnProgress = lambda characters: None,
) -> Evaluation:
    """The mean loss of ``model`` over a text.

    With one lane in fp32 this is the exact figure: the whole text is one sequence, its state carried, and reset where a
    document begins. Several lanes are faster and an approximation: each reads ``WARM_UP`` characters before its own,
    from a state of zero, and a text that has fewer for each has fewer lanes.
    """
    lanes = min(lanes, max(1, len(text) // WARM_UP))
    lane_length = -(-len(text) // lanes)
    lane_starts = np.arange(lanes) * lane_length
    warm_up = WARM_UP if lanes > 1 else 0
    total, unknown = 0.0, 0
    with evaluating(model):
        for logits, targets in predictions(
            model, text, lane_starts, lane_length, warm_up, precision, chunk, on_progress
        ):
            total += losses(logits, targets, text.vocabulary).sum()
            unknown += int(np.count_nonzero(targets == text.vocabulary.unknown_id))
    return Evaluation(float(total) / len(text), len(text), unknown, lanes == 1 and precision == "fp32", lanes)


def predictions(
    model: CharacterModel,
    text: Text,
    lane_starts: Positions,
    lane_length: int,
    warm_up: int = 0,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: OnProgress = lambda characters: None,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Logits ``(time, lane, vocabulary)`` and targets ``(time, lane)``, chunk after chunk, of stretches side by side.

    Each stretch is read from a state of zero: after the start symbol, or after ``warm_up`` characters before it, which
    are not predicted. What lies beyond the text's end is ``IGNORED``. No gradient goes from one chunk into another.
    """
    device = model.output_bias.device
    lanes = len(lane_starts)
    chunk = max(1, min(chunk, MOST_LOGITS // (lanes * model.vocabulary_size)))
    state = model.zero_state(lanes)
    for first, last in _chunks(-warm_up, lane_length, chunk):
        positions = np.arange(first - 1, last)[:, None] + lane_starts  # of what is read and, one later, predicted
        here = text[np.clip(positions, 0, len(text) - 1)]
        inputs, targets = here[:-1], np.where(positions[1:] < len(text), here[1:], IGNORED)
        resets = text.begins(positions[1:])
        inputs[positions[:-1] < 0] = text.vocabulary.start_id
        if resets is not None:
            inputs[resets] = text.vocabulary.start_id
        if first == 0 and not warm_up:
            inputs[0] = text.vocabulary.start_id
        if first == 0 and warm_up:  # the first lane has nothing to warm up on: what it read so far is forgotten
            for part in state:
                part[:, lane_starts == 0] = 0
        # Not around the yield: whoever reads this may do something else in between
        with autocast(device, precision), full_fp32() if precision == "fp32" else nullcontext():
            logits, state = model(on_device(inputs, device), state, resets)
        state = tuple(part.detach() for part in state)
        if first >= 0:
            yield logits.float(), targets
        on_progress((last - first) * lanes)


def losses(logits: Tensor, targets: NDArray[np.int64], vocabulary: Vocabulary) -> Losses:
    """The nats of each target, ``(time, lane)``; 0 where it is ignored."""
    expected = on_device(targets, logits.device).flatten()
    nats = functional.cross_entropy(logits.flatten(0, 1), expected, reduction="none").view(targets.shape)
    of_targets = nats.cpu().numpy().astype(np.float64)  # not every device has float64
    if vocabulary.unknown_id is not None:
        of_targets[targets == vocabulary.unknown_id] += vocabulary.unknown_nats
    return of_targets


def _chunks(first: int, last: int, chunk: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover ``first`` to ``last``, none across 0."""
    edges = [*range(first, 0, chunk), *range(0, last, chunk), last]
    return list(itertools.pairwise(edges))
