"""Open a source of text and read its bytes: decompressed, hashed, and with errors that name the file.

A source may be a named pipe; waiting for its writer has a timeout.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import select
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from charlm.errors import TextError, UsageError, quote
from charlm.reading import UnsuitableFileError, open_descriptor

STANDARD_INPUT = Path("-")
CHUNK_BYTES = 1 << 20
PIPE_TIMEOUT_SECONDS = 10.0  # to wait for a named pipe's writer
POLL_INTERVAL_SECONDS = 0.05


class Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class HashingStream:
    """A stream that counts and hashes the bytes read."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        self.size_bytes += len(data)
        return data


class ErrorReportingStream:
    """A stream whose errors are readable and name the file."""

    def __init__(self, stream: Stream, path: Path) -> None:
        self.stream = stream
        self.path = path

    def read(self, size: int = -1, /) -> bytes:
        """Raises ``TextError`` where a compressed file is damaged, ``UsageError`` where it cannot be read."""
        try:
            return self.stream.read(size)
        except OSError as error:
            if error.errno is not None:  # otherwise it comes from a decompressor
                raise UsageError(f"{self.path}: cannot be read: {error.strerror}.") from None
            damage: Exception = error
        except DECOMPRESSION_ERRORS as error:
            damage = error
        raise TextError(f"{self.path}: damaged {self.path.suffix} file: {damage}.", "Get a new copy of it.")


@contextmanager
def open_source(path: Path) -> Iterator[tuple[Stream, HashingStream]]:
    """Open a file; yields its decompressed stream, and the hashing stream of its raw bytes.

    Raises ``UsageError`` if it cannot be read, ``TextError`` if it is damaged or changes meanwhile.
    """
    if path == STANDARD_INPUT:
        file: Any = sys.stdin.buffer
        before = None
    else:
        file = open_binary(path)
        before = os.fstat(file.fileno())
    hashed = HashingStream(file)
    try:
        yield ErrorReportingStream(decompress(hashed, path), path), hashed
        remainder = ErrorReportingStream(hashed, path)
        while remainder.read(CHUNK_BYTES):  # include what a decompressor leaves unread
            pass
    finally:
        if path != STANDARD_INPUT:
            file.close()
    if before is not None and stat.S_ISREG(before.st_mode):
        with suppress(FileNotFoundError):
            after = path.stat()
            same = all(getattr(before, name) == getattr(after, name) for name in ("st_size", "st_mtime_ns", "st_ino"))
            if not same or hashed.size_bytes != before.st_size:
                raise TextError(f"{path}: changed while it was being read.", "Try again when nothing is writing to it.")


def open_binary(path: Path) -> IO[bytes]:
    if path.suffix == ".zst" and ".zst" not in DECOMPRESSORS:
        raise UsageError(
            f"{path}: reading .zst files requires Python 3.14 or later.",
            f"Or decompress it first: zstd -d {quote(path)}",
        )
    try:
        return _open_text(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from None


class PipeFile(io.FileIO):
    """A pipe whose first bytes have already been read."""

    first = b""

    def read(self, size: int | None = -1, /) -> bytes:
        first, self.first = self.first, b""
        return first or super().read(-1 if size is None else size) or b""


def _open_text(path: Path) -> IO[bytes]:
    """A file, a pipe or a terminal, opened for reading without a buffer.

    Raises ``UnsuitableFileError`` for a device, which may have no end, and for a named pipe that nobody writes to.
    """
    descriptor = open_descriptor(path)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and path != Path(os.devnull) and not os.isatty(descriptor)):
            raise UnsuitableFileError("a device, not a file")
        if stat.S_ISDIR(mode):
            raise UnsuitableFileError("a folder, not a file")
        first = _wait_for_writer(descriptor) if stat.S_ISFIFO(mode) else b""
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        file = PipeFile(descriptor)
        file.first = first
        return file
    except BaseException:
        os.close(descriptor)
        raise


def _wait_for_writer(descriptor: int) -> bytes:
    """The first byte of a pipe; empty if its writer has not written yet or has already finished."""
    deadline = time.monotonic() + PIPE_TIMEOUT_SECONDS
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while not poll.poll(1000 * POLL_INTERVAL_SECONDS):
        try:
            first = os.read(descriptor, 1)
        except BlockingIOError:  # a writer has opened it
            return b""
        if first:
            return first
        if time.monotonic() > deadline:
            raise UnsuitableFileError("a named pipe that nothing writes to")
    return b""


def decompress(stream: Any, path: Path) -> Stream:
    return DECOMPRESSORS[path.suffix](stream) if path.suffix in DECOMPRESSORS else stream


def _gzip(stream: Any) -> Stream:
    return gzip.GzipFile(fileobj=stream)


DECOMPRESSORS: dict[str, Callable[[Any], Stream]] = {".gz": _gzip, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError)
with suppress(ImportError):  # from Python 3.14 on
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    DECOMPRESSORS[".zst"] = zstd.ZstdFile
    DECOMPRESSION_ERRORS = (*DECOMPRESSION_ERRORS, zstd.ZstdError)
