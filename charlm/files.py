"""Writing that lasts: the only module that opens for writing, syncs, renames and unlinks.

A file or folder appears under its name complete or not at all: it is written beside its place under a temporary name,
synced, and renamed. The order of operations follows Pillai et al., "All File Systems Are Not Created Equal" (OSDI
2014): data is synced before the rename that publishes it, and the parent folder after.
"""

import atexit
import errno
import functools
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, cast

from filelock import FileLock, Timeout

from charlm.errors import warn_once

TEMPORARY_INFIX = ".writing-"
BUILDING_PREFIX = ".building-"
MAX_NAME_PREFIX = 40  # characters, 160 bytes at most, of the 255 that a name may have
UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems say of what they cannot do
CANNOT_SYNC = (*UNSUPPORTED, errno.EINVAL)
CANNOT_LOCK = (*UNSUPPORTED, errno.ENOLCK)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole or not at all, replacing what stood there."""
    with atomic_writer(path) as file:
        file.write(data)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` if the block ends well and is removed if it does not."""
    temporary = _temporary_sibling(path)
    try:
        with create_synced(temporary) as file:
            yield file
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def build_folder(parent: Path) -> Iterator["FolderBuild"]:
    """A folder to fill, which gets its name, set in the block, when that has ended well, and is gone if it has not.

    What the block writes it must sync itself: see :func:`create_synced`. If a folder of that name stands there by then,
    because another process was faster, that one stays. A lock beside the folder says that its builder lives.
    """
    build = FolderBuild(parent / f"{BUILDING_PREFIX}{secrets.token_hex(8)}")
    lock = build.folder.with_suffix(".lock")
    try:
        with file_lock(lock, wait=True):  # who clears away may look whether it is held
            build.folder.mkdir()
            yield build
            assert build.path is not None
            _sync_folder(build.folder)
            try:
                build.folder.rename(build.path)
            except OSError:
                if not build.path.is_dir():
                    raise
            _sync_folder(parent)
    finally:
        shutil.rmtree(build.folder, ignore_errors=True)  # where it still has this name
        lock.unlink(missing_ok=True)


@dataclass
class FolderBuild:
    """A folder that is being filled, and the path that it is to have: known, perhaps, only when it is full."""

    folder: Path
    path: Path | None = None


@contextmanager
def create_synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write and read, which is on the disk when the block ends."""
    with path.open("x+b") as file:
        yield file
        file.flush()
        _sync(file.fileno(), path)


def write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Make the folder ``path``, which must not exist, with these files in it, written in the order given.

    Raises ``FileExistsError`` if ``path`` exists. The rename is atomic because the new name does not exist.
    """
    if path.exists():
        raise FileExistsError(path)
    temporary = _temporary_sibling(path)
    try:
        temporary.mkdir()
        for name, data in contents.items():
            with create_synced(temporary / name) as file:
                file.write(data)
        _sync_folder(temporary)
        temporary.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file. A line that was torn by a crash before is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def sync_file(path: Path) -> None:
    """Have what was appended to a file, where there is one, on the disk."""
    with suppress(FileNotFoundError), path.open("ab") as file:
        os.fsync(file.fileno())


@contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold ``path`` as a lock, which ends with the block or, however it dies, with the process.

    Raises ``BlockingIOError`` if another process holds it, at once or, ``wait``, after a while. The file stays:
    removing it would let two processes hold locks on two files of one name. Where there are no locks it goes without.
    """
    lock = FileLock(path, timeout=10 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(path) from None
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        warn_once(
            "locks",
            f"{path.parent}: this file system has no locks ({error.strerror}). Continuing without; "
            "do not start a second training run in this folder.",
        )
    try:
        yield
    finally:
        lock.release()


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader takes a half-removed one for whole: rename it first, then empty it."""
    trash = _temporary_sibling(path)
    path.rename(trash)
    if trash.is_symlink():  # what it leads to belongs to somebody else
        trash.unlink()
    else:
        shutil.rmtree(trash)


def remove_empty_folder(path: Path) -> None:
    """Nothing happens if it is not there, or not empty."""
    with suppress(OSError):
        path.rmdir()


def remove_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def rename(old: Path, new: Path) -> None:
    old.rename(new)
    _sync_folder(new.parent)


def remove_stale_temporaries(folder: Path) -> None:
    """Clear away what a killed process left half written in ``folder``."""
    for path in folder.glob(f".*{TEMPORARY_INFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_stale_builds(parent: Path) -> None:
    """Clear away what killed processes were building in ``parent``; what one builds still stays."""
    for lock in parent.glob(f"{BUILDING_PREFIX}*.lock"):
        with suppress(BlockingIOError), file_lock(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def write_stderr_unbuffered(text: str) -> None:
    """To standard error past all buffers, which may be in the middle of a write when a signal is handled."""
    with suppress(OSError):
        os.write(2, text.encode())


def open_devnull(mode: Literal["r", "w"]) -> TextIO:
    """What stands in for a standard stream that is closed: nothing comes from it, and what is written is gone."""
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))


def write_temp_log(text: str) -> Path:
    """Keep ``text`` in a new file of the system's temporary folder, and say which."""
    handle, name = tempfile.mkstemp(prefix="charlm-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.write(text)
    return Path(name)


@functools.cache
def process_folder() -> Path:
    """A temporary folder of this process, which is removed when it ends. Raises ``OSError`` if there can be none."""
    folder = Path(tempfile.mkdtemp(prefix="charlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def link_folder(folder: Path) -> Path:
    """Another name for a folder, for as long as this process lives."""
    link = process_folder() / secrets.token_hex(4)
    link.symlink_to(folder.absolute(), target_is_directory=True)
    return link


def _temporary_sibling(path: Path) -> Path:
    prefix = path.name[:MAX_NAME_PREFIX]  # the whole name may be as long as names can be
    return path.parent / f".{prefix}{TEMPORARY_INFIX}{secrets.token_hex(4)}"


def _sync(descriptor: int, path: Path) -> None:
    """Wait until data is on the disk, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
        warn_once(
            "sync",
            f"{path}: this file system cannot confirm that data is on disk ({error.strerror}). Continuing; "
            "a power failure may damage the latest checkpoint.",
        )


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and its renames are journaled
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor, path)
    finally:
        os.close(descriptor)
