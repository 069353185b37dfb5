"""The cache of encoded texts: a text that has not changed is not read again.

It has two folders. ``encoded/KEY`` is an encoded text; its key is made of the SHA-256 of the files and of the settings
that decide how they are read. ``index/KEY.json`` names the encoded text that some files gave when they were last read;
its key is made of their paths, sizes, times and inodes, so that it is enough to ask the file system. All of it can be
removed at any time: a text is then read once more.
"""

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from charlm import files, reading
from charlm.config import CorpusSettings
from charlm.corpus import encoded, sources
from charlm.corpus.encoded import Encoded
from charlm.errors import CharlmError, warn_once

TEXTS, INDEX = "encoded", "index"
OLD_TEXTS, OLD_INDEX = "texts", "seen"  # of format 1; only cleared
Result = TypeVar("Result")
KEY = re.compile(r"[0-9a-f]{32}")
VARIABLE = "CHARLM_CACHE_DIR"
ENTRY_AT_MOST_BYTES = 1 << 16
SETTLED_SECONDS = 2  # a change this soon after another may leave a file's time as it is: file systems are that coarse


def default_folder() -> Path:
    """The one that ``CHARLM_CACHE_DIR`` names, else the user's own; a temporary one for a user without a home folder.

    Raises ``CharlmError`` if there is not even that.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    with suppress(RuntimeError, KeyError):
        folder: Path = platformdirs.user_cache_path("charlm")
        if folder.is_absolute():
            return folder
    try:
        substitute = _substitute()
    except OSError as error:
        raise CharlmError(
            f"There is neither a home folder nor a temporary folder for the cache: {error.strerror or error}.",
            f"Name a folder with --cache-dir or {VARIABLE}.",
        ) from None
    warn_once("cache", f"No home folder; texts are cached in a temporary folder. To keep them, set {VARIABLE}.")
    return substitute


def get(
    cache: Path,
    paths: Sequence[Path],
    settings: CorpusSettings,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Encoded:
    """The encoded text of files: from the cache, or read now and put there.

    If the cache cannot be written, it is put into a temporary folder of this process. Raises ``CharlmError`` if that is
    impossible or the disk fails, and what reading the files raises.
    """
    for folder in _folders(cache):
        if (known := _seen(folder, paths, settings)) is not None:
            return known
    untouched = True

    def read(folder: Path) -> Encoded:
        def begin() -> None:
            nonlocal untouched
            untouched = all(map(sources.is_file, paths))  # what came through a pipe cannot come again

        return _read(folder, paths, settings, on_bytes, begin)

    try:
        return read(cache)
    except OSError as error:
        if not untouched:
            raise unwritable(cache, error) from None
        return with_substitute(cache, error, read)


def with_substitute(cache: Path, error: OSError, work: Callable[[Path], Result]) -> Result:
    """Do without a cache that could not be written: work in a temporary folder of this process instead.

    Raises ``CharlmError`` if that is impossible, or if the ``error`` is that of a failing disk.
    """
    if error.errno in (None, errno.EIO):
        raise unwritable(cache, error) from None
    try:
        result = work(_substitute())
    except OSError:
        raise unwritable(cache, error) from None
    reason = f"cannot write the cache: {error.strerror}. Using a temporary folder for now."
    warn_once("cache", f"{cache}: {reason}")
    return result


def _substitute() -> Path:
    return files.process_folder() / "cache"


def _folders(cache: Path) -> list[Path]:
    """Where a text may be: in the cache, or in what this process has in place of it."""
    return [cache, _substitute()] if files.process_folder.cache_info().currsize else [cache]


def unwritable(cache: Path, error: OSError) -> CharlmError:
    return CharlmError(
        f"{cache}: cannot write the cache: {error.strerror or error}.",
        f"Free up space (charlm cache clear), or use another folder: --cache-dir or {VARIABLE}.",
    )


def recall(cache: Path, files_sha256: str, settings: CorpusSettings) -> Encoded | None:
    """The encoded text of files that need not be there any more, by their digest."""
    found = (_opened(_place(folder, files_sha256, settings)) for folder in _folders(cache))
    return next((encoded for encoded in found if encoded is not None), None)


def clean(cache: Path) -> int:
    """Remove every entry, of whatever format, but nothing that is not charlm's nor what another process is building.

    Returns the bytes that were freed.
    """
    before = _size_bytes(cache)
    for texts in (cache / TEXTS, cache / OLD_TEXTS):
        files.remove_half_built(texts)
        for path in texts.glob("*"):
            if KEY.fullmatch(path.name) and (path / encoded.IDS).is_file():
                with suppress(FileNotFoundError):  # another process clears the cache too
                    files.remove_folder(path)
    for index in (cache / INDEX, cache / OLD_INDEX):
        for path in index.glob("*.json"):
            if KEY.fullmatch(path.stem):
                files.remove_file(path)
    return before - _size_bytes(cache)


def _read(
    cache: Path,
    paths: Sequence[Path],
    settings: CorpusSettings,
    on_bytes: Callable[[int], object],
    on_begin: Callable[[], object],
) -> Encoded:
    texts = cache / TEXTS
    files.make_folder(texts)
    files.remove_half_built(texts)
    began_ns, stats_before = time.time_ns(), _stats(paths)
    with files.built(texts) as building:
        on_begin()
        read = encoded.build(building.folder, paths, settings, on_bytes)
        place = _place(cache, encoded.digest_of(file.sha256 for file in read), settings)
        _opened(place)  # removes a damaged one, which would stay otherwise
        building.path = place
    result = _opened(place)
    if result is None:
        raise OSError(f"{place}: removed by another process")
    if stats_before is not None and stats_before == _stats(paths) and _settled(stats_before, began_ns):
        with suppress(OSError):  # a convenience: without it the text is read once more
            files.make_folder(cache / INDEX)
            entry = {"format_version": encoded.FORMAT_VERSION, "encoded": place.name}
            files.write_file(_entry(cache, stats_before, settings), json.dumps(entry).encode())
    return replace(result, files=read)  # the paths as they were named now


def _seen(cache: Path, paths: Sequence[Path], settings: CorpusSettings) -> Encoded | None:
    stats = _stats(paths)
    if stats is None:
        return None
    try:
        entry = json.loads(reading.read_file(_entry(cache, stats, settings), ENTRY_AT_MOST_BYTES))
        version, name = entry["format_version"], entry["encoded"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if version != encoded.FORMAT_VERSION or not isinstance(name, str):
        return None
    if not KEY.fullmatch(name):  # a damaged entry must not lead out of the cache
        return None
    found = _opened(cache / TEXTS / name)
    if found is None or len(found.files) != len(paths):
        return None
    renamed = [file.model_copy(update={"path": str(path)}) for file, path in zip(found.files, paths, strict=True)]
    return replace(found, files=renamed)


def _opened(place: Path) -> Encoded | None:
    """An encoded text, or ``None`` where it is missing, damaged or of another format: then it is removed."""
    if not place.is_dir():
        return None
    try:
        return encoded.opened(place)
    except (OSError, ValueError, KeyError, TypeError):
        with suppress(OSError):
            files.remove_folder(place)
        return None


def _stats(paths: Sequence[Path]) -> list[tuple[str, int, int, int]] | None:
    """Path, size, time and inode of each file; ``None`` where one of them is no file that stays."""
    if not all(sources.is_file(path) for path in paths):
        return None
    try:
        stats = [(str(path.absolute()), path.stat()) for path in paths]
    except OSError:
        return None
    return [(path, of.st_size, of.st_mtime_ns, of.st_ino) for path, of in stats]


def _settled(stats: list[tuple[str, int, int, int]], read_ns: int) -> bool:
    return max(modified for _, _, modified, _ in stats) < read_ns - SETTLED_SECONDS * 10**9


def _entry(cache: Path, stats: list[tuple[str, int, int, int]], settings: CorpusSettings) -> Path:
    return cache / INDEX / f"{_key(stats, _reading(settings))}.json"


def _place(cache: Path, files_sha256: str, settings: CorpusSettings) -> Path:
    return cache / TEXTS / _key(files_sha256, _reading(settings))


def _reading(settings: CorpusSettings) -> list[str]:
    """The settings that decide which characters the bytes of a file become."""
    codec = "" if settings.unit == "byte" else sources.codec_name(settings.encoding)
    return [settings.unit, codec, settings.decode_errors, settings.newline, settings.normalize]


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([encoded.FORMAT_VERSION, *parts]).encode()).hexdigest()[:32]


def _size_bytes(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += path.stat().st_size if path.is_file() else 0
    return sizes
