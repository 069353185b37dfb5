"""Log-probability and rank of every character of a text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.corpus.text import Text
from charlm.evaluation.loss import Losses, OnProgress, iter_predictions, target_losses
from charlm.model.language_model import CharacterModel, eval_mode


@dataclass(frozen=True)
class Scores:
    """The scores of a stretch of characters. ``log_probabilities`` are in nats; ``ranks``: 1 for the most probable
    character.
    """

    log_probabilities: Losses
    ranks: NDArray[np.int64]


@torch.inference_mode()
def score_characters(
    model: CharacterModel, text: Text, on_progress: OnProgress = lambda characters: None
) -> Iterator[Scores]:
    """Yield the scores of all characters of a text, stretch by stretch, computed like the exact loss.

    The negative sum of the log-probabilities is the exact loss, including unknown characters.
    """
    with eval_mode(model):
        lane_starts = np.zeros(1, np.int64)
        for window, predictions in iter_predictions(model, text, lane_starts, len(text), on_progress=on_progress):
            logits = predictions.logits
            target_logits = logits.gather(-1, predictions.targets[:, :, None])
            ranks = 1 + (logits > target_logits).sum(-1)
            yield Scores(-target_losses(window, predictions, text.vocabulary)[:, 0], ranks[:, 0].cpu().numpy())


def concatenate(stretches: Iterable[Scores]) -> Scores:
    """Concatenate all stretches."""
    parts = list(stretches)
    return Scores(
        np.concatenate([stretch.log_probabilities for stretch in parts]),
        np.concatenate([stretch.ranks for stretch in parts]),
    )
