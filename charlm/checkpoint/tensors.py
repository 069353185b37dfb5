"""Read tensors from a safetensors file, each once, directly into its final memory, while hashing the file.

The safetensors package copies tensors out of the file's bytes to addresses whose alignment varies between runs, and
alignment can affect the last bits of a matrix multiplication.
"""

import hashlib
import math
from typing import Annotated, BinaryIO

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from charlm.reading import UnsuitableFileError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 8  # of the header's length, with which the file begins
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors package
CHUNK_BYTES = 1 << 18  # hashed while the processor's cache still holds it

Dimension = Annotated[int, Field(ge=0, lt=1 << 31)]
Offset = Annotated[int, Field(ge=0)]


class TensorEntry(BaseModel):
    model_config = ConfigDict(strict=True)

    dtype: str
    shape: list[Dimension]
    data_offsets: tuple[Offset, Offset]


class Header(BaseModel):
    """Tensors by name, and optional strings of any origin."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, TensorEntry]

    metadata: dict[str, str] = Field({}, alias="__metadata__")


class HashingReader:
    """Reads a file from start to end and hashes all of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def fill(self, memory: memoryview) -> None:
        for start in range(0, len(memory), CHUNK_BYTES):
            chunk = memory[start : start + CHUNK_BYTES]
            if self.file.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
                raise UnsuitableFileError("a file that changed while it was being read")
            self.digest.update(chunk)

    def read(self, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        self.fill(memoryview(data))
        return data

    def skip(self, size_bytes: int) -> None:
        scratch = memoryview(bytearray(min(size_bytes, CHUNK_BYTES)))
        for start in range(0, size_bytes, CHUNK_BYTES):
            self.fill(scratch[: size_bytes - start])


def read_tensors(file: BinaryIO, size_bytes: int, data: bool = True) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file of this size, and its SHA-256. Without ``data``, they have types and shapes only.

    Raises ``ValueError`` if it is not a safetensors file, before any tensor is allocated.
    """
    reader = HashingReader(file)
    header_bytes = int.from_bytes(reader.read(LENGTH_BYTES), "little")
    data_bytes = size_bytes - LENGTH_BYTES - header_bytes
    if data_bytes < 0 or header_bytes > MAX_HEADER_BYTES:
        raise ValueError("the header is longer than it can be")
    header = Header.model_validate_json(bytes(reader.read(header_bytes)))
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape in _in_order_of_data(header, data_bytes):
        tensors[name] = tensor = torch.empty(shape, dtype=dtype, device=None if data else "meta")
        if data:
            reader.fill(tensor.flatten().view(torch.uint8).numpy().data)
        else:
            reader.skip(tensor.nbytes)
    return tensors, reader.digest.hexdigest()


def _in_order_of_data(header: Header, data_bytes: int) -> list[tuple[str, torch.dtype, list[int]]]:
    """Names, types and shapes of the tensors, in file order. Raises ``ValueError`` if they do not fill the data without
    gaps.
    """
    tensors, end = [], 0
    for name, entry in sorted(header.__pydantic_extra__.items(), key=lambda item: item[1].data_offsets):
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            raise ValueError("a tensor is of an unknown type")
        start, end = end, end + math.prod(entry.shape) * dtype.itemsize
        if entry.data_offsets != (start, end):
            raise ValueError("a tensor is not where the one before it ends")
        tensors.append((name, dtype, entry.shape))
    if end != data_bytes:
        raise ValueError("the tensors end before or after the file")
    return tensors
