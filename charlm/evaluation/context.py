"""Loss from a zero state: by context length, and in independent windows.

Programs that evaluate independent windows report such a loss: nanoGPT uses windows of 256, each starting with a
character that is read but not predicted; ours start with the start token. The value depends on the window length, so it
is reported in addition to the exact loss, never instead of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.corpus.text import Positions, Text
from charlm.corpus.windows import IGNORE_INDEX
from charlm.evaluation.loss import Evaluation, Losses, OnProgress, iter_predictions, target_losses
from charlm.model.language_model import CharacterModel, eval_mode

LANES = 128  # windows read in parallel
CURVE_STARTS = 1024
MAX_CONTEXT = 512  # characters; longer contexts add little for networks trained on windows of 64


@dataclass(frozen=True)
class ContextPoint:
    """Mean loss over characters with between ``context_characters`` and ``2 * context_characters - 1`` characters of
    context.
    """

    context_characters: int
    nats_per_character: float
    bits_per_character: float


def independent_window_loss(
    model: CharacterModel, text: Text, window: int, on_progress: OnProgress = lambda characters: None
) -> Evaluation:
    """The mean loss over independent windows of this many characters; the last one may be shorter."""
    starts = np.arange(0, len(text), window)
    losses = _losses_from_zero_state(model, text, starts, min(window, len(text)), on_progress)
    total = sum(nats.sum() for nats, _ in losses)
    return Evaluation(float(total) / len(text), len(text), exact=False)


def loss_by_context(
    model: CharacterModel, text: Text, on_progress: OnProgress = lambda characters: None
) -> list[ContextPoint]:
    """The loss by context length since a zero state: 0, 1, 2 to 3, 4 to 7, … characters.

    The starts are spread evenly over the text; document starts are also zero states.
    """
    starts, length = _curve_starts(text), min(MAX_CONTEXT, len(text))
    powers = length.bit_length()
    totals, counts = np.zeros(powers + 1), np.zeros(powers + 1)
    for nats, seen in _losses_from_zero_state(model, text, starts, length, on_progress):
        doublings = np.frexp(seen)[1]  # 0 of 0, 1 of 1, 2 of 2 and 3, 3 of 4 to 7, …
        totals += np.bincount(doublings, nats, minlength=powers + 1)
        counts += np.bincount(doublings, minlength=powers + 1)
    points = []
    for power in np.flatnonzero(counts).tolist():
        mean = float(totals[power] / counts[power])
        points.append(ContextPoint(2 ** (power - 1) if power else 0, mean, mean / math.log(2)))
    return points


def count_curve_characters(text: Text) -> int:
    """The number of characters read for the context plot."""
    return len(_curve_starts(text)) * min(MAX_CONTEXT, len(text))


def _curve_starts(text: Text) -> Positions:
    """Zero-state positions, each far enough from the text's end if possible."""
    return np.unique(np.linspace(0, max(0, len(text) - MAX_CONTEXT), CURVE_STARTS).astype(np.int64))


@torch.inference_mode()
def _losses_from_zero_state(
    model: CharacterModel, text: Text, starts: Positions, length: int, on_progress: OnProgress
) -> Iterator[tuple[Losses, NDArray[np.int64]]]:
    """Yield the nats of characters and their context lengths since the last zero state, window by window."""
    with eval_mode(model):
        for first in range(0, len(starts), LANES):
            lanes = starts[first : first + LANES]
            context = np.full(len(lanes), -1)  # before the last character
            for window, predictions in iter_predictions(model, text, lanes, length, on_progress=on_progress):
                steps = np.arange(len(window.targets))[:, None]
                contexts = steps + context + 1
                if window.resets is not None:
                    last_reset = np.maximum.accumulate(np.where(window.resets, steps, -1), axis=0)
                    contexts = np.where(last_reset < 0, contexts, steps - last_reset)
                context = contexts[-1]
                counts = window.targets != IGNORE_INDEX
                yield target_losses(window, predictions, text.vocabulary)[counts], contexts[counts]
