"""Opening a text that may be a pipe, without waiting for ever for somebody to write to it."""

import io
import os
import select
import stat
import time
from pathlib import Path
from typing import IO

from charlm.reading import UnsuitableFileError, open_descriptor

PATIENCE_SECONDS = 10.0  # for a program that is to write to a named pipe
LOOK_EVERY_SECONDS = 0.05


class PipeFile(io.FileIO):
    """A pipe of which the first bytes have been read already."""

    first = b""

    def read(self, size: int | None = -1, /) -> bytes:
        first, self.first = self.first, b""
        return first or super().read(-1 if size is None else size) or b""


def open_text(path: Path) -> IO[bytes]:
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
    """The first byte of a pipe, or nothing where one is still to come, or where what wrote to it has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while not poll.poll(1000 * LOOK_EVERY_SECONDS):
        try:
            first = os.read(descriptor, 1)
        except BlockingIOError:  # somebody has opened it for writing, and will
            return b""
        if first:
            return first
        if time.monotonic() > deadline:
            raise UnsuitableFileError("a named pipe that nothing writes to")
    return b""
