"""Averaged weights: an exponential moving average of the weights after each step, also after one that was skipped.

Averaging (Polyak and Juditsky 1992) removes the noise that a high learning rate leaves in the last weights.
"""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from charlm.model.language_model import CharacterModel


def copy_model(model: CharacterModel) -> CharacterModel:
    """A copy that is not trained itself."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def decay_after(steps: int, decay: float) -> float:
    """The decay of the average after ``steps`` steps: lower at first, so that it soon forgets the initial weights."""
    return min(decay, (1 + steps) / (10 + steps))


@torch.no_grad()
def update_average(average: CharacterModel, model: CharacterModel, steps: int, decay: float) -> None:
    """Include the weights after ``steps`` steps: ``average ← d × average + (1 - d) × weights``."""
    update = get_ema_multi_avg_fn(decay_after(steps, decay))  # type: ignore[no-untyped-call]
    update(list(average.parameters()), list(model.parameters()), None)
