"""What charlm can use of this machine, and what it would run on: ``charlm info --system``."""

import platform
from dataclasses import dataclass

import numpy as np
import torch

from charlm import __version__
from charlm.config import TrainSettings
from charlm.machine import count_processors, read_memory_bytes
from charlm.model.device import choose_device, choose_precision, processor_name
from charlm.model.kernels.choice import choose_kernel, find_native_problem
from charlm.model.kernels.library import AVX2, load_native
from charlm.model.sharing import choose_threads, is_fixed


@dataclass(frozen=True)
class SystemReport:
    """The machine, the libraries, and what runs a model of the default preset on them."""

    charlm: str
    python: str
    torch: str
    numpy: str
    system: str
    processor: str
    processors: int  # that this process may use
    memory_bytes: int
    device: str
    precision: str
    threads: int
    threads_fixed: bool  # by OMP_NUM_THREADS
    native_kernels: str  # the instructions that they use, or why there are none
    training_kernel: str
    sampling_kernel: str


def describe_system() -> SystemReport:
    settings = TrainSettings()
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    training = choose_kernel(settings.cell, settings.hidden_size, settings.batch_size, device, precision)
    problem = find_native_problem(settings.cell, device, "fp32")
    native = load_native()
    return SystemReport(
        charlm=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        system=platform.platform(),
        processor=processor_name(),
        processors=count_processors(),
        memory_bytes=read_memory_bytes(),
        device=str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        precision=precision,
        threads=choose_threads(settings.threads, settings, settings.batch_size, precision),
        threads_fixed=is_fixed(settings.threads),
        native_kernels="; ".join(filter(None, [native.description, native.bf16_problem]))
        if native.library
        else f"none: {native.description}",
        training_kernel=training.reason,
        sampling_kernel=f"torch and numpy; not native: {problem}" if problem else f"native, int8 ({AVX2})",
    )
