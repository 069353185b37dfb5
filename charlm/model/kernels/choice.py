"""Choose the kernel of the layers. To add one, write a module in this package and a line in :func:`choose_kernel`."""

from typing import NamedTuple

import torch

from charlm.model.kernels.interface import Kernel
from charlm.model.kernels.torch import TorchKernel, describe_torch_kernel


class Choice(NamedTuple):
    kernel: Kernel
    reason: str  # the library used and why, for messages


def choose_kernel(cell: str, hidden_size: int, lanes: int, device: torch.device, precision: str) -> Choice:
    """The fastest kernel for layers of this shape on this device. ``precision``: ``fp32`` or ``bf16``."""
    return Choice(TorchKernel(), describe_torch_kernel(cell, device, precision))
