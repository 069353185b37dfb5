"""Read untrusted files: their type and size are checked before any content is read.

A named pipe would block, and a sparse file can claim any size. Symbolic links are followed. Type and size are those of
the open file, so it cannot be replaced between check and read.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_descriptor(path: Path) -> int:
    """Open any path for reading, without blocking on a pipe or acquiring a controlling terminal."""
    extra = 0
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):  # the last: Windows leaves line ends alone
        extra |= getattr(os, name, 0)
    return os.open(path, os.O_RDONLY | extra)


class UnsuitableFileError(OSError):
    """Not a regular file, or too large; the message says which."""


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened for reading.

    Raises ``UnsuitableFileError`` if it is something else, a broken link or a loop of links; else what opening raises.
    """
    try:
        _check_kind(path.stat())  # opening a device can have side effects
        descriptor = open_descriptor(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise UnsuitableFileError(f"a broken link to {printable(str(path.readlink()))}") from None
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsuitableFileError("a link that leads back to itself") from None
        raise
    try:
        _check_kind(os.fstat(descriptor))
        return open(descriptor, "rb")  # noqa: PTH123  # a Path cannot open a descriptor
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def open_limited(path: Path, max_bytes: int) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file of at most ``max_bytes`` bytes; yields it and its size. The block must read all of it.

    Raises ``UnsuitableFileError`` if it is larger, or has changed when the block ends, and what :func:`open_regular`
    raises.
    """
    with open_regular(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > max_bytes:
            raise UnsuitableFileError(f"{size_bytes:,} bytes, where at most {max_bytes:,} are expected")
        yield file, size_bytes
        if file.tell() != size_bytes or file.read(1):
            raise UnsuitableFileError("a file that changed while it was being read")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes`` bytes. Raises what :func:`open_limited` raises."""
    with open_limited(path, max_bytes) as (file, size_bytes):
        return file.read(size_bytes)


def read_json_lines(path: Path, max_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the complete objects of a JSON Lines file; none if it does not exist. Raises what :func:`read_file`
    raises.
    """
    try:
        text = read_file(path, max_bytes).decode(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UnsuitableFileError(f"{kind}, not a regular file")


def printable(name: str) -> str:
    """A name from an untrusted file, escaped if it is not printable."""
    return name if name.isprintable() else ascii(name)
