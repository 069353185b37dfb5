"""How well a model predicts when it starts cold: its state zero, nothing read but the start symbol.

Programs that cut a text into windows and read each by itself report such a figure: nanoGPT, with windows of 256, each
of which begins with a character that is read and not predicted, where ours begin with the start symbol. It hangs on the
length of the window, so it stands beside the exact one, and never for it.
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

LANES = 128  # windows that are read side by side
CURVE_STARTS = 1024
MAX_CONTEXT = 512  # characters; more show no more of a network that learned through windows of 64


@dataclass(frozen=True)
class ContextPoint:
    """The mean loss over the characters that have ``context_characters`` to twice as many, exclusive, before them."""

    context_characters: int
    nats_per_character: float
    bits_per_character: float


def independent_window_loss(
    model: CharacterModel, text: Text, window: int, on_progress: OnProgress = lambda characters: None
) -> Evaluation:
    """The mean loss where each window of so many characters, the last one perhaps shorter, is read by itself."""
    starts = np.arange(0, len(text), window)
    losses = _losses_from_zero_state(model, text, starts, min(window, len(text)), on_progress)
    total = sum(nats.sum() for nats, _ in losses)
    return Evaluation(float(total) / len(text), len(text), exact=False)


def loss_by_context(
    model: CharacterModel, text: Text, on_progress: OnProgress = lambda characters: None
) -> list[ContextPoint]:
    """The loss by what was read since a cold start: nothing, one character, 2 to 3, 4 to 7, ….

    The starts lie evenly in the text; a document that begins is a start too.
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
    """How many characters are read for the curve."""
    return len(_curve_starts(text)) * min(MAX_CONTEXT, len(text))


def _curve_starts(text: Text) -> Positions:
    """Where the curve starts cold: each time far enough from the text's end, if there is room."""
    return np.unique(np.linspace(0, max(0, len(text) - MAX_CONTEXT), CURVE_STARTS).astype(np.int64))


@torch.inference_mode()
def _losses_from_zero_state(
    model: CharacterModel, text: Text, starts: Positions, length: int, on_progress: OnProgress
) -> Iterator[tuple[Losses, NDArray[np.int64]]]:
    """The nats of characters, and how many were read before each since the last zero state, window by window."""
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
