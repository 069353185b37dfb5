"""The cache of encoded texts: an unchanged text is not read again. Only this module knows the cache's layout.

``encoded/KEY`` is an encoded text with data derived from its ids, keyed by the SHA-256 of its files and the decoding
settings. ``index/KEY.json`` maps the paths, sizes, mtimes and inodes of files to such a text, so that unchanged files
need not be read. Everything can be deleted at any time; texts are then read again.
"""

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import platformdirs
from numpy.typing import NDArray

from charlm import files, reading
from charlm.config import CorpusSettings
from charlm.corpus import documents, encoded_text, shuffling, sources
from charlm.corpus.decoding import codec_name
from charlm.corpus.encoded_text import EncodedText
from charlm.corpus.record import hash_files
from charlm.corpus.text import Positions
from charlm.errors import CharlmError, warn_once

TEXTS, INDEX = "encoded", "index"
OLD_TEXTS, OLD_INDEX = "texts", "seen"  # of format 1; only cleared
Result = TypeVar("Result")
Compute = Callable[[], Iterable[NDArray[Any]]]  # an array, block by block
OnBytes = Callable[[int], object]  # is called with the number of bytes read since the last call
KEY = re.compile(r"[0-9a-f]{32}")
CACHE_VARIABLE = "CHARLM_CACHE_DIR"
MAX_ENTRY_BYTES = 1 << 16
MTIME_GRACE_SECONDS = 2  # granularity of file times: a change this soon after another may leave the time as it is


def default_folder() -> Path:
    """``CHARLM_CACHE_DIR``, or the user's cache folder, or a temporary folder for a user without a home folder.

    Raises ``CharlmError`` if none of them exists.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    with suppress(RuntimeError, KeyError):
        folder: Path = platformdirs.user_cache_path("charlm")
        if folder.is_absolute():
            return folder
    try:
        substitute = _substitute()
    except OSError as error:
        problem = f"There is neither a home folder nor a temporary folder for the cache: {error.strerror or error}."
        raise CharlmError(problem, f"Name a folder with --cache-dir or {CACHE_VARIABLE}.") from None
    warn_once("cache", f"No home folder; texts are cached in a temporary folder. To keep them, set {CACHE_VARIABLE}.")
    return substitute


def load_or_encode(
    cache: Path, paths: Sequence[Path], settings: CorpusSettings, on_bytes: OnBytes = lambda count: None
) -> EncodedText:
    """The encoded text of files: from the cache, or read now and stored there.

    If the cache cannot be written, it is put into a temporary folder of this process. Raises ``CharlmError`` if that is
    impossible or the disk fails, and what reading the files raises.
    """
    for folder in _folders(cache):
        if (known := _seen(folder, paths, settings)) is not None:
            return known
    began: list[bool] = []

    def read(folder: Path) -> EncodedText:
        return _read(folder, paths, settings, on_bytes, lambda: began.append(True))

    try:
        return read(cache)
    except OSError as error:
        if began and not all(map(sources.is_regular_file, paths)):  # data from a pipe cannot be read again
            raise cache_write_error(cache, error) from None
        return _with_substitute(cache, error, read)


def load_document_starts(encoded: EncodedText, settings: CorpusSettings) -> Positions:
    """Start positions of the documents, in order; empty if ``settings`` define no documents."""
    file_starts = encoded.file_starts if settings.document_per_file else np.empty(0, dtype=np.int64)
    if not (separator := settings.document_separator):
        return file_starts

    def compute() -> Iterator[Positions]:
        count = 0
        for starts in documents.find_document_starts(encoded, settings, file_starts):
            count += len(starts)
            yield starts
        yield np.array([-count])  # to detect a truncated file

    name = f"document_starts-{_digest(json.dumps([separator, file_starts.tolist()]).encode())}.bin"
    dtype = np.dtype("<i8")
    return _load_beside(encoded, name, dtype, compute, lambda stored: bool(stored[-1] == 1 - len(stored)))[:-1]


def load_shuffled(encoded: EncodedText, starts: Positions, settings: CorpusSettings) -> tuple[EncodedText, Positions]:
    """The text with its documents (which begin at ``starts``) shuffled, and their new start positions."""
    length, last_stays = len(encoded.ids), not documents.ends_with_separator(encoded, settings)
    order = shuffling.shuffle(np.asarray(starts), length, last_stays)
    name = f"shuffled-{_digest(json.dumps([shuffling.SEED, last_stays]).encode() + np.asarray(starts).tobytes())}.bin"
    compute = partial(shuffling.reorder, encoded.ids, order)
    ids = _load_beside(encoded, name, encoded.ids.dtype, compute, lambda stored: len(stored) == length)
    return replace(encoded, ids=ids), order.starts


def _load_beside(
    encoded: EncodedText, name: str, dtype: np.dtype[Any], compute: Compute, is_whole: Callable[[NDArray[Any]], bool]
) -> NDArray[Any]:
    """An array stored next to the ids of a text, computed block by block if it is missing or incomplete."""

    def load(path: Path) -> NDArray[Any] | None:
        size_bytes = path.stat().st_size if path.is_file() else 0
        stored = np.memmap(path, dtype, mode="r") if size_bytes and not size_bytes % dtype.itemsize else None
        return None if stored is None or not is_whole(stored) else stored

    def write(folder: Path) -> NDArray[Any]:
        files.make_folder(folder)
        with files.atomic_writer(folder / name) as file:
            for block in compute():
                file.write(block.astype(dtype, copy=False).data)
        written = load(folder / name)
        assert written is not None, "it has just been written"
        return written

    if (found := load(encoded.folder / name)) is not None:
        return found
    try:
        return write(encoded.folder)
    except OSError as error:
        cache, key = encoded.folder.parent.parent, encoded.folder.name
        return _with_substitute(cache, error, lambda substitute: write(substitute / key))


def _with_substitute(cache: Path, error: OSError, work: Callable[[Path], Result]) -> Result:
    """Replace a cache that could not be written by a temporary folder of this process.

    Raises ``CharlmError`` if that is impossible, or if the ``error`` is that of a failing disk.
    """
    if error.errno in (None, errno.EIO):
        raise cache_write_error(cache, error) from None
    try:
        result = work(_substitute())
    except OSError:
        raise cache_write_error(cache, error) from None
    reason = f"cannot write the cache: {error.strerror}. Using a temporary folder for now."
    warn_once("cache", f"{cache}: {reason}")
    return result


def _substitute() -> Path:
    return files.process_folder() / "cache"


def _folders(cache: Path) -> list[Path]:
    """The folders to search for a text: the cache, and the temporary replacement if this process has one."""
    return [cache, _substitute()] if files.process_folder.cache_info().currsize else [cache]


def cache_write_error(cache: Path, error: OSError) -> CharlmError:
    return CharlmError(
        f"{cache}: cannot write the cache: {error.strerror or error}.",
        f"Free up space (charlm cache clear), or use another folder: --cache-dir or {CACHE_VARIABLE}.",
    )


def find_by_hash(cache: Path, files_sha256: str, settings: CorpusSettings) -> EncodedText | None:
    """The encoded text of files that may no longer exist, found by their hash."""
    found = (_opened(_place(folder, files_sha256, settings)) for folder in _folders(cache))
    return next((encoded for encoded in found if encoded is not None), None)


def clear(cache: Path) -> int:
    """Remove entries of every format, except those another process is building, and nothing that is not charlm's.

    Returns the number of bytes freed.
    """
    before = _size_bytes(cache)
    for texts in (cache / TEXTS, cache / OLD_TEXTS):
        files.remove_stale_builds(texts)
        for path in texts.glob("*"):
            if KEY.fullmatch(path.name) and (path / encoded_text.IDS).is_file():
                with suppress(FileNotFoundError):  # another process clears the cache too
                    files.remove_folder(path)
    for index in (cache / INDEX, cache / OLD_INDEX):
        for path in index.glob("*.json"):
            if KEY.fullmatch(path.stem):
                files.remove_file(path)
    return before - _size_bytes(cache)


def _read(
    cache: Path, paths: Sequence[Path], settings: CorpusSettings, on_bytes: OnBytes, on_begin: Callable[[], object]
) -> EncodedText:
    texts = cache / TEXTS
    files.make_folder(texts)
    files.remove_stale_builds(texts)
    began_ns, stats_before = time.time_ns(), _stats(paths)
    is_settled = stats_before is not None and _settled(stats_before, began_ns)
    with files.build_folder(texts) as building:
        on_begin()
        read = encoded_text.encode_files(building.folder, paths, settings, on_bytes)
        place = _place(cache, hash_files(read), settings)
        _opened(place)  # removes a damaged entry, which would be kept otherwise
        building.path = place
    result = _opened(place)
    if result is None:
        raise OSError(f"{place}: removed by another process")
    if stats_before is not None and is_settled and stats_before == _stats(paths):
        with suppress(OSError):  # optional: without it the text is read again
            files.make_folder(cache / INDEX)
            entry = {"format_version": encoded_text.FORMAT_VERSION, "encoded": place.name}
            files.write_file(_entry(cache, stats_before, settings), json.dumps(entry).encode())
    return replace(result, files=read)  # the paths as they were named now


def _seen(cache: Path, paths: Sequence[Path], settings: CorpusSettings) -> EncodedText | None:
    stats = _stats(paths)
    if stats is None:
        return None
    try:
        entry = json.loads(reading.read_file(_entry(cache, stats, settings), MAX_ENTRY_BYTES))
        version, name = entry["format_version"], entry["encoded"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if version != encoded_text.FORMAT_VERSION or not isinstance(name, str) or not KEY.fullmatch(name):
        return None  # a damaged entry must not point outside the cache
    found = _opened(cache / TEXTS / name)
    if found is None or len(found.files) != len(paths):
        return None
    renamed = [file.model_copy(update={"path": str(path)}) for file, path in zip(found.files, paths, strict=True)]
    return replace(found, files=renamed)


def _opened(place: Path) -> EncodedText | None:
    """Open an encoded text. Returns ``None`` if it is missing; if it is damaged or of another format, it is also
    removed.
    """
    if not place.is_dir():
        return None
    try:
        return encoded_text.open_encoded(place)
    except (OSError, ValueError, KeyError, TypeError):
        with suppress(OSError):
            files.remove_folder(place)
        return None


def _stats(paths: Sequence[Path]) -> list[tuple[str, int, int, int]] | None:
    """Path, size, mtime and inode of each file, or ``None`` if one of them is not a regular file."""
    if not all(sources.is_regular_file(path) for path in paths):
        return None
    with suppress(OSError):
        stats = [(str(path.absolute()), path.stat()) for path in paths]
        return [(path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats]
    return None


def _settled(stats: list[tuple[str, int, int, int]], read_ns: int) -> bool:
    return max(modified for _, _, modified, _ in stats) < read_ns - MTIME_GRACE_SECONDS * 10**9


def _entry(cache: Path, stats: list[tuple[str, int, int, int]], settings: CorpusSettings) -> Path:
    return cache / INDEX / f"{_key(stats, _reading(settings))}.json"


def _place(cache: Path, files_sha256: str, settings: CorpusSettings) -> Path:
    return cache / TEXTS / _key(files_sha256, _reading(settings))


def _reading(settings: CorpusSettings) -> list[str]:
    """The settings that determine how bytes are decoded to characters."""
    codec = "" if settings.unit == "byte" else codec_name(settings.encoding)
    return [settings.unit, codec, settings.decode_errors, settings.newline, settings.normalize]


def _key(*parts: Any) -> str:
    return _digest(json.dumps([encoded_text.FORMAT_VERSION, *parts]).encode())


def _digest(data: bytes) -> str:
    return files.sha256(data)[:32]


def _size_bytes(folder: Path) -> int:
    size_bytes = 0
    for path in filter(Path.is_file, folder.rglob("*")):
        with suppress(FileNotFoundError):
            size_bytes += path.stat().st_size
    return size_bytes
