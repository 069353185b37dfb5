"""Choose the kernel of the layers. To add one, write a module in this package and a line in :func:`choose_kernel`."""

from typing import NamedTuple

import torch

from charlm.config import TrainSettings
from charlm.errors import UsageError
from charlm.machine import has_short_thread_waits
from charlm.model.device import choose_device, choose_precision
from charlm.model.kernels.interface import Kernel
from charlm.model.kernels.library import AVX2, load_native
from charlm.model.kernels.native import NativeKernel
from charlm.model.kernels.native_bf16 import NativeBf16Kernel
from charlm.model.kernels.torch import TorchKernel, describe_torch_kernel

# Where the native kernel was measured to be at least 1.15 × as fast as torch's (docs/benchmarks.md)
MOST_UNITS = 192  # of a layer
FEWEST_LANES = 32
BF16_IS_MEASURED = False  # on no processor yet, so it runs only if asked for (docs/kernels-bf16.md)


class Choice(NamedTuple):
    kernel: Kernel
    reason: str  # the library used and why, for messages


def choose_kernel(
    cell: str, hidden_size: int, lanes: int, device: torch.device, precision: str, setting: str = "auto"
) -> Choice:
    """The fastest kernel for layers of this shape on this device. ``precision``: ``fp32`` or ``bf16``.

    ``setting``: ``auto``, or what the user wants. Raises ``UsageError`` where that cannot run.
    """
    problem = find_native_problem(cell, device, precision)
    if setting == "native" and problem:
        raise UsageError(f"--kernel native: {problem}.", "Use --kernel auto; charlm info --system shows what can run.")
    if setting == "auto":
        problem = problem or describe_slowness(hidden_size, lanes, precision)
    if setting == "torch" or problem:
        because = "as requested with --kernel torch" if setting == "torch" else f"not native: {problem}"
        return Choice(TorchKernel(), f"{describe_torch_kernel(cell, device, precision)}; {because}")
    native = load_native()
    if precision == "bf16":
        return Choice(NativeBf16Kernel(), f"native, bf16 ({native.bf16})")
    return Choice(NativeKernel(), f"native, fp32 ({AVX2})")


def check_kernel(settings: TrainSettings) -> None:
    """Raise ``UsageError`` if the kernel that the user wants cannot run."""
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    choose_kernel(settings.cell, settings.hidden_size, settings.batch_size, device, precision, settings.kernel)


def find_native_problem(cell: str, device: torch.device, precision: str) -> str:
    """Why the native kernel cannot run such a layer; empty if it can."""
    if device.type != "cpu":
        return f"it runs on CPUs, not on {device.type}"
    if cell != "lstm":
        return f"there is none for a {cell.upper()}"
    native = load_native()
    if not native.library:
        return native.description
    return native.bf16_problem if precision == "bf16" else ""


def describe_slowness(hidden_size: int, lanes: int, precision: str) -> str:
    """Where torch's kernel is as fast, or nearly so; empty where the native one is faster (docs/kernels.md)."""
    if torch.get_num_threads() > 1 and not has_short_thread_waits():
        return "PyTorch was imported before charlm, so its idle threads spin and would slow it down"
    if precision == "bf16":
        return "" if BF16_IS_MEASURED else "its speed in bf16 has not been measured yet; --kernel native turns it on"
    if hidden_size > MOST_UNITS:
        return f"it gains little with more than {MOST_UNITS} units a layer"
    return f"it gains little with fewer than {FEWEST_LANES} texts in parallel" if lanes < FEWEST_LANES else ""


def samples_natively(cell: str, device: torch.device, precision: str, setting: str = "auto") -> bool:
    """Whether text is sampled in C. ``precision``: ``auto``, which allows 8 bits, or ``fp32``."""
    return precision == "auto" and setting != "torch" and not find_native_problem(cell, device, "fp32")
