"""AdamW, or Muon with AdamW, with a state that is saved by parameter name."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config import OptimizationSettings
from charlm.model.cells import CELLS
from charlm.model.recurrent import RecurrentLayer
from charlm.training.muon import Muon

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
MUON_MOMENTS = ("momentum",)
FUSED_ON = ("cpu", "cuda")  # devices whose fused AdamW supports found_inf, unlike MPS


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or Muon for the matrices of the recurrent layers and AdamW for the embedding,
    the output and biases. Weight decay does not apply to biases.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, RecurrentLayer)]
    muon: list[Tensor] = [matrix for layer in layers for matrix in (layer.weight_ih, layer.weight_hh)]
    if settings.optimizer == "adamw":
        muon = []
    ids_of_muon = set(map(id, muon))
    others = [parameter for parameter in model.parameters() if id(parameter) not in ids_of_muon]
    matrices = [parameter for parameter in others if parameter.ndim > 1]
    biases = [parameter for parameter in others if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    fused = matrices[0].device.type in FUSED_ON
    betas = (settings.beta1, settings.beta2)
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=fused)
    if not muon:
        return adamw
    ratio = settings.muon_learning_rate / settings.learning_rate
    return Muon(adamw, muon, CELLS[layers[0].cell].num_gates, settings.weight_decay, ratio)


def step_if_finite(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Take a step if ``finite`` is true, else leave weights and moments unchanged.

    With fused AdamW, the decision is made on the device through ``found_inf``, as in torch's gradient scaler
    (``torch/amp/grad_scaler.py``); a test fails if torch stops supporting it. Otherwise each step waits for the device.
    """
    if optimizer.defaults["fused"]:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()


def optimizer_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``optimizer.exp_avg.embedding.weight``, …"""
    return {
        f"optimizer.{moment}.{name}": tensor
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment, tensor in optimizer.state[parameter].items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_state_dict` gave. Raises ``ValueError`` if a tensor is missing or does not fit."""
    for name, parameter in model.named_parameters():
        # Only fused AdamW keeps its step count on the parameter's device
        like = {"step": torch.zeros((), device=parameter.device if optimizer.defaults["fused"] else "cpu")}
        is_muon = isinstance(optimizer, Muon) and optimizer.updates(parameter)
        optimizer.state[parameter] = {
            moment: take_tensor(tensors, f"optimizer.{moment}.{name}", like.get(moment, parameter))
            for moment in (MUON_MOMENTS if is_muon else MOMENTS)
        }


def take_tensor(tensors: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A stored tensor, on the device of ``like``. Raises ``ValueError`` if its shape or type differs."""
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    tensor = tensors[name]
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        found, needed = ((tuple(each.shape), each.dtype) for each in (tensor, like))
        raise ValueError(f"{name} is {found[1]} of shape {found[0]}, not {needed[1]} of shape {needed[0]}")
    return tensor.to(like.device)
