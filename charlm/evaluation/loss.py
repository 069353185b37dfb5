"""The loss of a model on a text: exact, or approximate in parallel lanes.

Every character is predicted exactly once, given all preceding text; the first one from the start token.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.corpus.text import Positions, Text
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Window, walk
from charlm.model.device import no_tf32
from charlm.model.language_model import CharacterModel, Predictions, eval_mode

WARMUP_CHARACTERS = 1000  # read by a lane before its own; earlier context hardly matters
MIN_CHARACTERS_PER_LANE = 4 * WARMUP_CHARACTERS  # keeps the warmup a small part of the work
MAX_LANES = 64
CHUNK = 256  # steps of one forward pass; the loss does not depend on it
MAX_LOGITS = 1 << 25  # per forward pass; a large vocabulary means fewer steps

Losses = NDArray[np.float64]
OnProgress = Callable[[int], object]  # called with the number of characters read since the last call


class LaneSharing(Protocol):
    """How several processes divide the lanes of an evaluation."""

    def share_of(self, lanes: range) -> range:
        """The lanes that this process evaluates."""
        ...

    def add_up(self, values: Losses) -> Losses:
        """The sums of what all processes have."""
        ...


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
        """Bits per byte, to compare models with different units."""
        return self.bits_per_character * self.characters / size_bytes


def choose_lanes(characters: int) -> int:
    """The maximum number of lanes that keeps the warmup short."""
    return max(1, min(MAX_LANES, characters // MIN_CHARACTERS_PER_LANE))


def count_characters_read(characters: int) -> int:
    """The number of characters that an evaluation in ``choose_lanes`` lanes reads, including the warmup."""
    lanes = choose_lanes(characters)
    return characters + (WARMUP_CHARACTERS * lanes if lanes > 1 else 0)


@torch.inference_mode()
def evaluate(
    model: CharacterModel,
    text: Text,
    lanes: int = 1,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: OnProgress = lambda characters: None,
    sharing: LaneSharing | None = None,
) -> Evaluation:
    """The mean loss of ``model`` over a text. With ``sharing``, several processes divide the lanes.

    With one lane in fp32 this is exact: the whole text is one sequence, its state carried, and reset where a document
    begins. Several lanes are faster and an approximation: each first reads the ``WARMUP_CHARACTERS`` before its own,
    from a zero state; a shorter text has fewer lanes.
    """
    lanes = min(lanes, max(1, len(text) // WARMUP_CHARACTERS))
    lane_length = -(-len(text) // lanes)
    own_lanes = range(lanes) if sharing is None else sharing.share_of(range(lanes))
    lane_starts = np.array(own_lanes, dtype=np.int64) * lane_length
    warmup = WARMUP_CHARACTERS if lanes > 1 else 0
    sums = np.zeros(2)  # losses, unknown characters
    with eval_mode(model):
        for window, predictions in iter_predictions(
            model, text, lane_starts, lane_length, warmup, precision, chunk, on_progress
        ):
            losses = target_losses(window, predictions, text.vocabulary)
            sums += losses.sum(), np.count_nonzero(window.targets == text.vocabulary.unknown_id)
    total, unknown = (sums if sharing is None else sharing.add_up(sums)).tolist()
    return Evaluation(total / len(text), len(text), int(unknown), lanes == 1 and precision == "fp32", lanes)


def iter_predictions(
    model: CharacterModel,
    text: Text,
    lane_starts: Positions,
    lane_length: int,
    warmup: int = 0,
    precision: str = "fp32",
    chunk: int = CHUNK,
    on_progress: OnProgress = lambda characters: None,
) -> Iterator[tuple[Window, Predictions]]:
    """Yield the windows of a walk through a text with the model's predictions: see :func:`charlm.corpus.windows.walk`.

    Warmup windows are not included. No gradient flows between windows.
    """
    lanes = len(lane_starts)
    if not lanes:
        return
    chunk = max(1, min(chunk, MAX_LOGITS // (lanes * model.vocabulary_size)))
    state = model.zero_state(lanes)
    for window in walk(text, lane_starts, lane_length, chunk, warmup):
        # Not around the yield, so that the caller's code is not affected
        with no_tf32() if precision == "fp32" else nullcontext():
            predictions = model.predict(window, state, precision)
        state = predictions.state
        if window.is_predicted:
            yield window, predictions
        on_progress(window.inputs.size)


def target_losses(window: Window, predictions: Predictions, vocabulary: Vocabulary) -> Losses:
    """The nats of each target, ``(time, lane)``, including the cost of unknown characters; 0 for ignored targets."""
    nats = predictions.losses().cpu().numpy().astype(np.float64)  # not every device has float64
    if vocabulary.unknown_id is not None:
        nats[window.targets == vocabulary.unknown_id] += vocabulary.unknown_penalty_nats
    return nats
