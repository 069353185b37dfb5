"""Durable, atomic writes. The only module that opens files for writing, syncs, renames or deletes.

Files and folders are written under a temporary name in the same directory, synced, and renamed, so readers never see
partial results. The order of operations follows Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014):
data is synced before the rename that publishes it, and the parent folder after.
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
UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # how file systems report unsupported operations
CANNOT_SYNC = (*UNSUPPORTED, errno.EINVAL)
CANNOT_LOCK = (*UNSUPPORTED, errno.ENOLCK)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically, replacing an existing file."""
    with atomic_writer(path) as file:
        file.write(data)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` if the block succeeds and is removed if it fails."""
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
    """Build a folder under a temporary name; rename it to ``build.path`` on success, delete it on failure.

    Files in it must be synced by the caller: see :func:`create_synced`. If the target already exists, because another
    process was faster, it is kept. A lock file marks folders that are still being built.
    """
    build = FolderBuild(parent / f"{BUILDING_PREFIX}{secrets.token_hex(8)}")
    lock = build.folder.with_suffix(".lock")
    try:
        with file_lock(lock, wait=True):  # remove_stale_builds may be testing it
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
        shutil.rmtree(build.folder, ignore_errors=True)  # if it was not renamed
        lock.unlink(missing_ok=True)


@dataclass
class FolderBuild:
    """A folder under construction, and its final path, which may be set at the end."""

    folder: Path
    path: Path | None = None


@contextmanager
def create_synced(path: Path) -> Iterator[BinaryIO]:
    """Create a file for reading and writing; it is synced when the block ends."""
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
    """Append a line to a text file. A partial line left by a crash is terminated first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def sync_file(path: Path) -> None:
    """Sync a file, if it exists."""
    with suppress(FileNotFoundError), path.open("ab") as file:
        os.fsync(file.fileno())


@contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, released when the block or the process ends.

    Raises ``BlockingIOError`` if another process holds it, immediately or, with ``wait``, after 10 seconds. The lock
    file is not deleted: otherwise two processes could lock two different files of the same name. On file systems
    without locks, it only warns.
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
    """Remove a folder. It is renamed first, so that no reader sees a partially removed one."""
    trash = _temporary_sibling(path)
    path.rename(trash)
    if trash.is_symlink():  # its target is not ours
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
    """Remove temporary files that killed processes left in ``folder``."""
    for path in folder.glob(f".*{TEMPORARY_INFIX}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_stale_builds(parent: Path) -> None:
    """Remove folders that killed processes were building in ``parent``; those still being built are kept."""
    for lock in parent.glob(f"{BUILDING_PREFIX}*.lock"):
        with suppress(BlockingIOError), file_lock(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def write_stderr_unbuffered(text: str) -> None:
    """Write to standard error without buffers, which a signal handler may have interrupted during a write."""
    with suppress(OSError):
        os.write(2, text.encode())


def open_devnull(mode: Literal["r", "w"]) -> TextIO:
    """The null device, as a replacement for a closed standard stream."""
    return cast(TextIO, Path(os.devnull).open(mode, encoding="utf-8"))


def write_temp_log(text: str) -> Path:
    """Write ``text`` to a new file in the system's temporary folder. Returns its path."""
    handle, name = tempfile.mkstemp(prefix="charlm-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as log:
        log.write(text)
    return Path(name)


@functools.cache
def process_folder() -> Path:
    """A temporary folder that is removed when this process ends. Raises ``OSError`` if it cannot be created."""
    folder = Path(tempfile.mkdtemp(prefix="charlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def link_folder(folder: Path) -> Path:
    """A symbolic link to a folder, removed when this process ends."""
    link = process_folder() / secrets.token_hex(4)
    link.symlink_to(folder.absolute(), target_is_directory=True)
    return link


def _temporary_sibling(path: Path) -> Path:
    prefix = path.name[:MAX_NAME_PREFIX]  # the full name may already have the maximum length
    return path.parent / f".{prefix}{TEMPORARY_INFIX}{secrets.token_hex(4)}"


def _sync(descriptor: int, path: Path) -> None:
    """Wait until data is on disk, if the file system supports it."""
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
