"""Dynamic evaluation: a model that keeps learning from the text while it predicts it.

Krause, Kahembwe, Murray and Renals, Dynamic Evaluation of Neural Sequence Models, ICML 2018, section 5. The text is cut
into segments. Each is predicted with the weights θ that the segments before it have left behind, and counted; then its
gradient moves them, scaled by what gradients are like on the training text, and held near the trained weights θ_g:

    MS = mean over windows k of the training text of (∇L_k)²
    θ ← θ − η ∇L(segment) / (√MS + ε) + λ (θ_g − θ) ⊙ min(√MS / mean(√MS), 1 / λ)

So a weight with large gradients in training moves little here, and is pulled back more strongly. No character is
predicted by weights that have seen it, but the loss is that of a different model than the static one, so it is reported
separately.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from charlm.config import DynamicSettings
from charlm.corpus.text import Text
from charlm.corpus.windows import Lanes
from charlm.errors import CharlmError
from charlm.evaluation.loss import Evaluation, OnProgress, iter_predictions, target_losses
from charlm.model.device import no_tf32
from charlm.model.language_model import CharacterModel, Predictions
from charlm.model.regularization import Regularizer

EPSILON = 1e-3  # ε relative to the mean of √MS: limits the steps of weights that hardly moved
STATISTICS_LANES = 16
STATISTICS_WINDOWS = 100  # of the training text, for MS


def evaluate_dynamically(
    model: CharacterModel,
    text: Text,
    training: Text,
    settings: DynamicSettings,
    on_progress: OnProgress = lambda characters: None,
) -> Evaluation:
    """The mean loss of a copy of ``model`` that is updated on ``text``; gradient statistics are computed on
    ``training``.

    ``on_progress`` is called with characters of ``text``. At document starts the state is reset, but updates are kept.
    Raises ``CharlmError`` if the model diverges.
    """
    segment, decay = settings.dynamic_segment_length, settings.dynamic_decay
    adapted = copy.deepcopy(model).train()  # cuDNN computes gradients in this mode only
    for module in adapted.modules():
        if isinstance(module, Regularizer):
            module.eval()
    weights = list(adapted.parameters())
    trained = [weight.detach().clone() for weight in weights]
    total, unknown = 0.0, 0
    with no_tf32():
        root_mean_squares = _root_mean_squares(adapted, training, segment)
        mean = float(sum(part.sum() for part in root_mean_squares)) / sum(part.numel() for part in root_mean_squares)
        rates = [settings.dynamic_learning_rate / (part + EPSILON * mean) for part in root_mean_squares]
        decay_rates = [(decay * part / mean).clamp(max=1) for part in root_mean_squares]
        for window, predictions in iter_predictions(
            adapted, text, np.zeros(1, np.int64), len(text), chunk=segment, on_progress=on_progress
        ):
            with torch.no_grad():
                total += target_losses(window, predictions, text.vocabulary).sum()
            if not math.isfinite(total):
                raise CharlmError(
                    "Dynamic evaluation diverged: the loss is no longer finite.",
                    f"Lower --dynamic-learning-rate (now {settings.dynamic_learning_rate:g}).",
                )
            unknown += int(np.count_nonzero(window.targets == text.vocabulary.unknown_id))
            gradients = _gradients(weights, predictions)
            with torch.no_grad():
                of_weights = zip(weights, trained, gradients, rates, decay_rates, strict=True)
                for weight, trained_weight, gradient, rate, decay_rate in of_weights:
                    weight.add_(decay_rate * (trained_weight - weight) - rate * gradient)
    return Evaluation(float(total) / len(text), len(text), unknown)


def _root_mean_squares(model: CharacterModel, training: Text, segment: int) -> list[Tensor]:
    """√MS of every weight, over windows of the training text, read in parallel lanes with carried state."""
    lanes = Lanes(training, STATISTICS_LANES, min(segment, len(training)))
    weights = list(model.parameters())
    squares = [torch.zeros_like(weight) for weight in weights]
    state = model.zero_state(lanes.batch_size)
    windows = min(STATISTICS_WINDOWS, lanes.windows_per_epoch)
    for number in range(windows):
        predictions = model.predict(lanes.window(number), state)
        state = predictions.state
        for square, gradient in zip(squares, _gradients(weights, predictions), strict=True):
            square += gradient**2 / windows
    return [square.sqrt() for square in squares]


def _gradients(weights: Sequence[Tensor], predictions: Predictions) -> tuple[Tensor, ...]:
    """Gradients of the mean loss over a window's targets."""
    return torch.autograd.grad(predictions.loss_sum() / predictions.num_targets, weights)
