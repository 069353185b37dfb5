"""Device and precision."""

import ctypes
import platform
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.config import BatchSettings
from charlm.errors import CharlmError, UsageError, pluralize
from charlm.model.sharing import ThreadBalancer, choose_threads, is_fixed

OUT_OF_MEMORY_MESSAGES = (  # in RuntimeErrors of CUDA and MPS, of CPU allocators, of cuBLAS and cuDNN
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "STATUS_ALLOC_FAILED",
)


def choose_device(name: str) -> torch.device:
    """Choose the device; ``auto``: cuda if available, else cpu. Raises ``UsageError`` for an unavailable device."""
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
    """Choose ``fp32`` or ``bf16``; ``auto``: bf16 where it was measured to be faster (x86 CPUs with bf16 instructions).

    Raises ``UsageError`` if the device does not support bf16 LSTMs.
    """
    if name == "bf16" and device.type == "cuda":  # torch's autocast always uses fp16 for cuDNN's kernels
        raise UsageError(
            "--precision bf16: not supported on CUDA, where PyTorch would run the LSTM in fp16.", "Use fp32, or auto."
        )
    if name == "bf16" and device.type == "cpu" and not cpu_supports_bf16():
        raise UsageError("--precision bf16: this processor cannot compute in bf16.", "Use fp32, or auto.")
    if name != "auto":
        return name
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() and cpu_supports_bf16() else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix multiplications are at least as fast as fp32 on this device."""
    return device.type != "cpu" or _cpu_has_bf16()


@cache
def processor_name() -> str:
    """The processor's model and the vector instructions that PyTorch uses: the last bits of results depend on both."""
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else ""
    return f"{name or platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _cpu_has_bf16() -> bool:
    """Whether the processor has bf16 instructions. Those of ARM are not used, because their speed was not measured."""
    # Processors without these instructions can run bf16, but convert every number, which is slower.
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


def cpu_supports_bf16() -> bool:
    """Whether there is a bf16 kernel: oneDNN has none for processors without AVX-512."""
    mkldnn: Any = torch.backends.mkldnn
    return not mkldnn.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Matrix multiplications in ``precision``; the weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Convert an array to a tensor on the device; a GPU copies it asynchronously."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class NoTF32:
    """Disables TF32 while any thread is inside, for full fp32 precision.

    It is a process-wide setting: the first thread to enter changes it, the last one to leave restores it. It is set for
    each backend, because torch's older global setting fails if the newer ones have been used.
    """

    def __init__(self) -> None:
        backends: Any = torch.backends
        self.backends = (backends.cuda.matmul, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.rnn)
        self.lock = threading.RLock()
        self.inside = 0
        self.previous: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.previous = [backend.fp32_precision for backend in self.backends]
                for backend in self.backends:
                    backend.fp32_precision = "ieee"
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    for backend, precision in zip(self.backends, self.previous, strict=True):
                        backend.fp32_precision = precision


no_tf32 = NoTF32()


@contextmanager
def report_out_of_memory(settings: BatchSettings) -> Iterator[None]:
    """Convert out-of-memory errors to a ``CharlmError`` that suggests which settings to reduce."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES):
            raise
        raise CharlmError(
            "Out of memory. Saved checkpoints are intact.",
            f"Reduce --batch-size (now {settings.batch_size}), --sequence-length (now {settings.sequence_length}) or "
            "--hidden-size; raise --accumulation-steps to make up for a smaller batch.",
        ) from None


def configure_torch(threads: int) -> ThreadBalancer:
    """Apply process-wide performance settings. Call once, before any computation.

    ``threads``: 0 for one per available processor. Returns the balancer that adapts their number to the load.
    """
    balancer = ThreadBalancer(choose_threads(threads), is_fixed(threads))
    torch.set_num_threads(balancer.threads)
    torch.set_flush_denormal(True)  # denormal numbers are negligible, and up to a hundred times slower
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that support it; no effect on CPUs
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
