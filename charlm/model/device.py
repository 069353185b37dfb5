"""Where and in what precision the arithmetic happens."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.config import WindowSettings
from charlm.errors import CharlmError, UsageError, pluralize
from charlm.model.sharing import ThreadBalancer, choose_threads, is_fixed


def choose_device(name: str) -> torch.device:
    """``auto`` is cuda where there is one, else cpu. Raises ``UsageError`` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: unknown device type.", "Try auto, cpu, cuda, cuda:1 or mps.") from None
    hint = "Use --device cpu, or auto."
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: PyTorch finds no CUDA device.", hint)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = pluralize(torch.cuda.device_count(), "CUDA device")
        raise UsageError(f"--device {name}: PyTorch finds only {found}.", hint)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: PyTorch finds no MPS device.", hint)
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {name}: not supported.", hint)
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16``; auto is bf16 where that was measured to be faster: on a CPU with bf16 instructions."""
    if name == "bf16" and device.type == "cuda":  # torch's autocast hands cuDNN's kernels fp16 there, whatever is asked
        raise UsageError(
            "--precision bf16: not supported on CUDA, where PyTorch would run the LSTM in fp16.", "Use fp32, or auto."
        )
    if name == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise UsageError("--precision bf16: this processor cannot compute in bf16.", "Use fp32, or auto.")
    if name != "auto":
        return name
    return "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are not slower there than in fp32."""
    return device.type != "cpu" or _cpu_multiplies_bf16()


@cache
def processor_name() -> str:
    """The processor's model and the vector instructions that PyTorch uses: the last bits of results depend on both."""
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else ""
    return f"{name or platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _cpu_multiplies_bf16() -> bool:
    # Processors without these instructions run bf16 too, but convert every number and are slower for it.
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Matrix products in ``precision``; the weights themselves stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of the array, which a GPU fetches while the processor goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def full_fp32() -> Iterator[None]:
    """No TF32 inside: products of a GPU with all bits of fp32."""
    products, kernels = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = kernels


@contextmanager
def explained_memory(settings: WindowSettings) -> Iterator[None]:
    """Has running out of memory end as a ``CharlmError`` that names what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # a CPU's allocator raises a plain RuntimeError
        out_of_memory = not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError)
        if not out_of_memory and "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise CharlmError(
            "Out of memory. Saved checkpoints are intact.",
            f"Reduce --batch-size (now {settings.batch_size}), --sequence-length (now {settings.sequence_length}) or "
            "--hidden-size; raise --accumulation-steps to make up for a smaller batch.",
        ) from None


def prepare_process(threads: int) -> ThreadBalancer:
    """Settings of this process that make all arithmetic faster; to be called once, before anything is computed.

    ``threads``: 0 for as many as there are processors to use. Returns what adapts their number to other work.
    """
    balancer = ThreadBalancer(choose_threads(threads), is_fixed(threads))
    torch.set_num_threads(balancer.threads)
    torch.set_flush_denormal(True)  # numbers too small to matter, which a processor computes with a hundredfold slower
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU that has it; nothing changes on a CPU
    _keep_freed_memory()
    return balancer


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of returning it to the operating system each time.

    Each training step allocates the same buffers again, and fresh pages cost a page fault each. M_MMAP_THRESHOLD is -3
    and M_TRIM_THRESHOLD -1 in malloc.h; setting them turns off glibc's own adjustment of both.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25):  # glibc before 2.35 takes no more than 32 MiB
            libc.mallopt(-1, (1 << 31) - 1)
