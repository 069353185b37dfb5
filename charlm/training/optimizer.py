"""AdamW, with a state that is saved by parameter name."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config import OptimizationSettings

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
FUSED_ON = ("cpu", "cuda")  # devices whose fused AdamW supports found_inf, unlike MPS


def make_optimizer(model: nn.Module, settings: OptimizationSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019). Weight decay does not apply to biases."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    fused = matrices[0].device.type in FUSED_ON
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=fused)


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
        f"optimizer.{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
        if parameter in optimizer.state
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_state_dict` gave. Raises ``ValueError`` if a tensor is missing or does not fit."""
    for name, parameter in model.named_parameters():
        # Only fused AdamW keeps its step count on the parameter's device
        like = {"step": torch.zeros((), device=parameter.device if optimizer.defaults["fused"] else "cpu")}
        optimizer.state[parameter] = {
            moment: take_tensor(tensors, f"optimizer.{moment}.{name}", like.get(moment, parameter))
            for moment in MOMENTS
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
