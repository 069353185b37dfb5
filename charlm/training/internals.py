"""What is looked at inside the model now and then, so that people see whether it learns in good health.

Everything is computed from what is there after a step: gates and states from a short stretch of validation text, the
rest from the optimizer's moments. Nothing is added to the steps themselves, and no random number is drawn.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.corpus.text import Text
from charlm.inspection.traces import memory_name, trace_text
from charlm.model.language_model import CharacterModel
from charlm.training.muon import UPDATE_SCALE, Muon

TEXT_CHARACTERS = 200
LAYER = re.compile(r"recurrent\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Internals:
    """``numbers`` by tag, in one group for each question; ``distributions``: for histograms, by tag."""

    numbers: dict[str, float]
    distributions: dict[str, Tensor]


def measure_internals(model: CharacterModel, optimizer: torch.optim.Optimizer, text: Text) -> Internals:
    """Gates, gradients and updates of each layer, after a step of AdamW or Muon.

    - ``gates/…``: the share of values below 0.1 (closed) and above 0.9 (open) (Karpathy, Johnson and Li 2015).
    - ``gradient_norm_per_layer/…``: of the root mean square of recent gradients, AdamW's second moment; with Muon, of
      their mean, its momentum.
    - ``update_to_weight/…``: the norm of the last update divided by that of the weights; about 0.001 is healthy.
    """
    numbers: dict[str, float] = {}
    distributions: dict[str, Tensor] = {}
    stretch = text.subrange(range(min(TEXT_CHARACTERS, len(text))))
    no_characters = [""] * (1 + int(stretch.raw_ids.max()))  # nobody reads them here
    trace = trace_text(model, stretch, no_characters)
    memory = memory_name(model.settings.cell)
    for number, layer in enumerate(trace.layers, start=1):
        for gate, use in layer.use.gates.items():
            numbers[f"gates/layer {number} {gate} closed"] = float(use.closed.mean())
            numbers[f"gates/layer {number} {gate} open"] = float(use.open.mean())
            distributions[f"gates/layer {number} {gate}"] = torch.from_numpy(layer.signals[gate])
        distributions[f"states/layer {number} {memory}"] = torch.from_numpy(layer.signals[memory])
    sums: dict[str, Tensor] = {}  # squared norms of gradients, updates and weights
    for name, weight in model.named_parameters():
        place = layer_name(name)
        if weight in optimizer.state:
            norms = torch.stack([part.norm() for part in (*_gradient_and_update(optimizer, weight), weight.detach())])
            sums[place] = sums.get(place, torch.zeros_like(norms)) + norms**2
        distributions[f"weights/{name}"] = weight.detach()
    for place, squares in sums.items():
        gradient, update, weights = squares.sqrt().tolist()
        numbers[f"gradient_norm_per_layer/{place}"] = gradient
        numbers[f"update_to_weight/{place}"] = update / weights if weights else 0.0
    return Internals(numbers, distributions)


def layer_name(parameter: str) -> str:
    """``embedding``, ``layer 1`` or ``output``, which a parameter belongs to."""
    if found := LAYER.match(parameter):
        return f"layer {int(found[1]) + 1}"
    return parameter.partition(".")[0].partition("_")[0]


def _gradient_and_update(optimizer: torch.optim.Optimizer, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Typical gradient and last update of a weight, without its decay (Kingma and Ba 2015, algorithm 1).

    The update of Muon depends on a gradient that is gone; elements of its mean size stand for it.
    """
    state, settings = optimizer.state[weight], optimizer.param_groups[0]
    if isinstance(optimizer, Muon) and optimizer.updates(weight):
        return state["momentum"], torch.full_like(weight, UPDATE_SCALE * optimizer.param_groups[-1]["lr"])
    beta1, beta2 = settings["betas"]
    steps = float(state["step"])
    if not steps:
        return torch.zeros_like(weight), torch.zeros_like(weight)
    gradient = (state["exp_avg_sq"] / (1 - beta2**steps)).sqrt()
    update = settings["lr"] * state["exp_avg"] / (1 - beta1**steps) / (gradient + settings["eps"])
    return gradient, update
