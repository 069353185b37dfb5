"""The environment of a checkpoint: the versions, hardware and precision on which bit-identical results depend."""

import platform
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from charlm import __version__
from charlm.model.device import processor_name
from charlm.model.kernels.library import load_native


class Environment(BaseModel):
    """Results are bit-identical only in the same environment. Later versions of charlm may have added fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[str, str | int]

    charlm: str
    python: str
    torch: str
    numpy: str
    system: str
    processor: str
    device: str
    gpu: str | None = None  # on CUDA only
    precision: str
    threads: int
    native_kernels: str | None = None  # the instructions they use, where they can run

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


def describe_environment(device: torch.device, precision: str, threads: int = 0) -> Environment:
    """Describe this process, with ``threads`` threads (0: the current number)."""
    return Environment(
        charlm=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        system=f"{platform.system()} {platform.machine()}",
        processor=processor_name(),
        device=device.type,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        precision=precision,
        threads=threads or torch.get_num_threads(),
        native_kernels=load_native().description if load_native().library else None,
    )
