"""A text as an array of ids on disk, written in one pass and in constant memory.

The ids belong to the text alone: every character that occurs has one, in order of appearance. A model may have a
different vocabulary (rare characters, another training text): see :mod:`charlm.corpus.text`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from charlm import files, reading
from charlm.config import CorpusSettings
from charlm.corpus.decoding import decode_stream
from charlm.corpus.record import FileRecord, hash_files
from charlm.corpus.streams import open_source
from charlm.corpus.vocabulary import CODE_POINTS, to_code_points

Ids = NDArray[np.integer[Any]]

FORMAT_VERSION = 2  # of the cache; raise it when what is stored, or what it means, changes
IDS = "ids.bin"
METADATA = "metadata.json"
MAX_METADATA_BYTES = 1 << 30
BLOCK = 1 << 20  # ids held in memory at once
ID_TYPES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"))


@dataclass(frozen=True)
class EncodedText:
    """``ids``: a memory map, ``(characters,)``; ``alphabet``: the character of each id; ``counts``: how often."""

    folder: Path
    ids: Ids
    alphabet: list[str]
    counts: NDArray[np.int64]
    files: list[FileRecord]

    @cached_property
    def files_sha256(self) -> str:
        """The hash that identifies the text of a run: the SHA-256 of the files' SHA-256s, in order."""
        return hash_files(self.files)

    @property
    def file_starts(self) -> NDArray[np.int64]:
        """Start positions of the nonempty files, in characters."""
        lengths = np.array([file.length for file in self.files], dtype=np.int64)
        return (np.cumsum(lengths) - lengths)[lengths > 0]


def encode_files(
    folder: Path, paths: Sequence[Path], settings: CorpusSettings, on_bytes: Callable[[int], object]
) -> list[FileRecord]:
    """Read files once and write their ids to ``folder``; ``on_bytes`` is called with the number of bytes read since the
    last call.

    Raises what :func:`charlm.corpus.streams.open_source` and :func:`charlm.corpus.decoding.decode_stream` raise.
    """
    records = []
    with files.create_synced(folder / IDS) as file:
        writer = IdWriter(file)
        for path in paths:
            before, reported = writer.length, 0
            with open_source(path) as (stream, hashed):
                for piece in decode_stream(stream, path, settings):
                    writer.add(to_code_points(piece))
                    on_bytes(hashed.size_bytes - reported)
                    reported = hashed.size_bytes
            sha256, length = hashed.digest.hexdigest(), writer.length - before
            records.append(FileRecord(path=str(path), size_bytes=hashed.size_bytes, sha256=sha256, length=length))
    metadata = {
        "format_version": FORMAT_VERSION,
        "length": writer.length,
        "dtype": writer.type.name,
        "alphabet": "".join(map(chr, writer.seen_code_points)),
        "counts": writer.counts[writer.seen_code_points].tolist(),
        "files": [file.model_dump() for file in records],
    }
    with files.create_synced(folder / METADATA) as file:
        file.write(json.dumps(metadata).encode("ascii"))
    return records


def open_encoded(folder: Path) -> EncodedText:
    """What :func:`encode_files` wrote. Raises ``OSError`` or ``ValueError`` if that is missing or damaged."""
    metadata = json.loads(reading.read_file(folder / METADATA, MAX_METADATA_BYTES))
    if metadata["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{folder}: format {metadata['format_version']}, not {FORMAT_VERSION}")
    length, dtype = metadata["length"], np.dtype(metadata["dtype"]).newbyteorder("<")
    with reading.open_regular(folder / IDS):  # would block on a pipe
        pass
    ids = np.memmap(folder / IDS, dtype=dtype, mode="r") if length else np.empty(0, dtype)
    if len(ids) != length:
        raise ValueError(f"{folder}: {len(ids)} ids of {length}")
    records = [FileRecord(**record) for record in metadata["files"]]
    return EncodedText(folder, ids, list(metadata["alphabet"]), np.array(metadata["counts"], dtype=np.int64), records)


class IdWriter:
    """Writes ids in the smallest integer type that fits those seen so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.type = ID_TYPES[0]
        self.length = 0
        self.seen_code_points: list[int] = []  # code points: that of each id
        self.counts = np.zeros(CODE_POINTS, dtype=np.int64)
        self.table = np.zeros(CODE_POINTS, dtype=self.type)  # the id of each code point seen

    def add(self, points: NDArray[np.unsignedinteger[Any]]) -> None:
        counts = _count_code_points(points)
        present = np.flatnonzero(counts)
        new = present[self.counts[present] == 0]
        self.counts[present] += counts[present]
        ids = np.arange(len(self.seen_code_points), len(self.seen_code_points) + len(new))
        self.seen_code_points += new.tolist()
        smallest = _smallest_type(len(self.seen_code_points))
        if smallest != self.type:
            self._widen(smallest)
        self.table[new] = ids
        self.file.write(np.take(self.table, points, mode="clip").data)
        self.length += len(points)

    def _widen(self, new_type: np.dtype[Any]) -> None:
        """Convert all ids to a larger type, in place, last block first."""
        for start in reversed(range(0, self.length, BLOCK)):
            self.file.seek(start * self.type.itemsize)
            data = self.file.read(min(BLOCK, self.length - start) * self.type.itemsize)
            self.file.seek(start * new_type.itemsize)
            self.file.write(np.frombuffer(data, self.type).astype(new_type).data)
        self.file.seek(self.length * new_type.itemsize)
        self.table, self.type = self.table.astype(new_type), new_type


def _count_code_points(points: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.integer[Any]]:
    """Count each code point; bytes are counted in pairs, which is twice as fast."""
    if points.dtype.itemsize > 1:
        return np.bincount(points)
    even = len(points) // 2 * 2
    pairs = np.bincount(points[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
    counts: NDArray[np.integer[Any]] = pairs.sum(0) + pairs.sum(1) + np.bincount(points[even:], minlength=256)
    return counts


def _smallest_type(distinct: int) -> np.dtype[Any]:
    return next(kind for kind in ID_TYPES if distinct <= 1 << (8 * kind.itemsize))


def iter_blocks(ids: Ids, overlap: int = 0) -> Iterable[tuple[int, Ids]]:
    """Yield an array in blocks, each with its start position; each starts ``overlap`` before the end of the previous
    one.
    """
    for start in range(0, len(ids), BLOCK):
        first = max(0, start - overlap)
        yield first, ids[first : start + BLOCK]
