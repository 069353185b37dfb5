"""One learning step of truncated backpropagation through time (Williams and Peng 1990).

The state is carried from window to window; gradients stop at a window's start. Training, benchmarks and time estimates
all use this step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.corpus.windows import Window
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.training.optimizer import step_if_finite
from charlm.training.ranks import GradientExchange


@dataclass(frozen=True)
class Step:
    """The result of a step. All tensors stay on the device, so that nothing waits for it.

    ``loss``: the mean over the targets of its windows, in nats; ``gradient_norm``: before clipping; ``is_finite``:
    whether both are, so that the step was taken; ``state``: after the last window, or before the first if not.
    """

    loss: Tensor
    gradient_norm: Tensor
    is_finite: Tensor
    num_targets: int
    state: State


def take_step(
    model: CharacterModel,
    optimizer: torch.optim.Optimizer,
    windows: Sequence[Window],
    state: State,
    learning_rate: float,
    gradient_clip: float = 0.0,
    precision: str = "fp32",
    exchange: GradientExchange | None = None,
) -> Step:
    """Accumulate the gradients of some windows, clip their norm (Pascanu et al. 2013; 0: no clipping) and update the
    weights.

    ``exchange``: with other processes, while the backward pass of the last window computes.

    All targets have equal weight, although the last window of an epoch may be shorter. A non-finite loss or gradient
    affects neither the weights nor the state of the next step.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("learning_rate_ratio", 1.0)
    num_targets = sum(window.num_targets for window in windows)
    loss = torch.zeros((), device=state[0].device)
    new_state = state
    for window in windows:
        predictions = model.predict(window, new_state, precision)
        new_state = predictions.state
        window_loss = predictions.loss_sum() / num_targets
        loss += window_loss.detach()
        if exchange and window is windows[-1]:
            exchange.start(loss)
        window_loss.backward()  # type: ignore[no-untyped-call]
    if exchange:
        loss = exchange.finish()
    gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip or math.inf)
    is_finite = torch.isfinite(gradient_norm) & torch.isfinite(loss)
    step_if_finite(optimizer, is_finite)
    optimizer.zero_grad()
    kept_state = tuple(torch.where(is_finite, new, old) for new, old in zip(new_state, state, strict=True))
    return Step(loss, gradient_norm, is_finite, num_targets, kept_state)
