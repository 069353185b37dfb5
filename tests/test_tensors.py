"""safetensors files, read into place: what the safetensors package reads, and nothing that it refuses."""

import hashlib
import io
import json
import struct
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from charlm.checkpoint import tensors as module
from charlm.checkpoint.tensors import DTYPES, read_tensors

TENSORS = {
    **{str(dtype): torch.arange(7).to(dtype) for dtype in DTYPES.values()},
    "matrix": torch.arange(6.0).reshape(2, 3),
    "number": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "strange": torch.tensor([-0.0, 1e-42, float("inf"), float("nan")]),
}


def read(content: bytes, data: bool = True) -> tuple[dict[str, Tensor], str]:
    return read_tensors(io.BytesIO(content), len(content), data)


@pytest.mark.parametrize("chunk_bytes", [1, 5, 1 << 18])
def test_read_tensors_matches_safetensors(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    data = safetensors.torch.save(TENSORS, metadata={"format": "pt"})
    found, sha256 = read(data)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert bytes(found[name].flatten().view(torch.uint8)) == bytes(tensor.flatten().view(torch.uint8)), name
    assert sha256 == hashlib.sha256(data).hexdigest()
    shapes, same_sha256 = read(data, data=False)
    assert {name: each.shape for name, each in shapes.items()} == {name: each.shape for name, each in found.items()}
    assert all(each.is_meta for each in shapes.values())
    assert same_sha256 == sha256


def file(header: object, data: bytes, length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        file({"a": entry(offsets=(0, 7))}, bytes(7)),
        file({"a": entry(offsets=(0, 4))}, bytes(4)),
        file({"a": entry(offsets=(4, 12))}, bytes(12)),  # a hole
        file({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        file({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),  # an overlap
        file({"a": entry()}, bytes(9)),  # data that belongs to nothing
        file({"a": entry()}, bytes(7)),
        file({"a": entry(shape=[1 << 62, 1 << 62])}, bytes(8)),
        file({"a": entry(shape=[-2], offsets=(0, -8))}, bytes(8)),
        file({"a": entry(shape=[-1, -2])}, bytes(8)),
        file({"a": entry(shape=[2.0])}, bytes(8)),
        file({"a": entry(shape=["2"])}, bytes(8)),
        file({"a": entry(shape=2)}, bytes(8)),
        file({"a": entry(offsets=(0, 8, 8))}, bytes(8)),
        file({"a": entry(dtype="F33")}, bytes(8)),
        file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        file({"a": []}, bytes(8)),
        file({"__metadata__": {"a": 1}}, b""),
        file([], b""),
        file(b"{", b""),
        file(b"\xff", b""),
        file(b"[" * 100_000, b""),
        file({"a": entry()}, bytes(8), length=10**12),
        file({"a": entry()}, bytes(8), length=1 << 63),
        b"",
        b"\0" * 7,
    ],
    ids=lambda data: repr(data[8:80]),
)
def test_invalid_header_is_rejected_like_safetensors(data: bytes) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load(data)
    for kept in (True, False):
        with pytest.raises((ValueError, OSError)):
            read(data, kept)


def test_header_is_validated_before_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("memory was taken")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ValueError, match="end"):
        read(file({"a": entry(), "b": entry(shape=[1 << 30], offsets=(8, 8 + (1 << 32)))}, bytes(8)))
