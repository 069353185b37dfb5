"""Where and in what precision the arithmetic happens."""

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

OUT_OF_MEMORY_MESSAGES = (  # in messages of RuntimeErrors: of CUDA and MPS, of a CPU's allocators, of cuBLAS and cuDNN
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "STATUS_ALLOC_FAILED",
)


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
    """``fp32`` or ``bf16``; auto is bf16 where that was measured to be faster: on x86 CPUs with bf16 instructions.

    Raises ``UsageError`` where the LSTM cannot be computed in bf16.
    """
    if name == "bf16" and device.type == "cuda":  # torch's autocast hands cuDNN's kernels fp16 there, whatever is asked
        raise UsageError(
            "--precision bf16: not supported on CUDA, where PyTorch would run the LSTM in fp16.", "Use fp32, or auto."
        )
    if name == "bf16" and device.type == "cpu" and not cpu_supports_bf16():
        raise UsageError("--precision bf16: this processor cannot compute in bf16.", "Use fp32, or auto.")
    if name != "auto":
        return name
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() and cpu_supports_bf16() else "fp32"


def has_fast_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are not slower there than in fp32."""
    return device.type != "cpu" or _cpu_has_bf16()


@cache
def processor_name() -> str:
    """The processor's model and the vector instructions that PyTorch uses: the last bits of results depend on both."""
    name = torch.cpu.get_capabilities().get("cpu_name") if hasattr(torch.cpu, "get_capabilities") else ""
    return f"{name or platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def _cpu_has_bf16() -> bool:
    """Whether the processor has instructions for it. ARM has some too, but whether they pay was never measured."""
    # Processors without these instructions may run bf16 too, but convert every number and are slower for it.
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())


def cpu_supports_bf16() -> bool:
    """Whether there is a kernel at all: oneDNN has none for processors without AVX-512."""
    mkldnn: Any = torch.backends.mkldnn
    return not mkldnn.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Matrix products in ``precision``; the weights themselves stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of the array, which a GPU fetches while the processor goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class NoTF32:
    """No TF32 while any thread is inside: products with all bits of fp32.

    It is a setting of the whole process: the first thread to enter changes it, the last one to leave puts it back.
    Set for each kind of product, since torch's older settings for all of them fail where somebody has used the newer.
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
    """Has running out of memory end as a ``CharlmError`` that names what to lower."""
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
