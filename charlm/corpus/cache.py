"""Where encoded texts are kept, so that a text that has not changed is not read again.

A folder holds two kinds of things. ``texts/KEY`` is an encoded text; its key is made of the SHA-256 of the files and of
the settings that decide how they are read. ``seen/KEY.json`` says which text some files gave when they were read last;
its key is made of their paths, sizes, times and inodes, so it is enough to ask the file system. All of it can be
removed at any time: a text is then read once more.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from charlm import files
from charlm.config import CorpusSettings
from charlm.corpus import encoded, sources
from charlm.corpus.encoded import Encoded
from charlm.errors import CharlmError

FORMAT = 1
OUR_TEXT, OUR_NOTE = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{32}\.json")
VARIABLE = "CHARLM_CACHE_DIR"
SETTLED_SECONDS = 2  # a change this soon after another may leave a file's time as it is: file systems are that coarse


def default_folder() -> Path:
    """The one that ``CHARLM_CACHE_DIR`` names, else the user's own."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("charlm"))


def get(
    cache: Path,
    paths: Sequence[Path],
    settings: CorpusSettings,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Encoded:
    """The encoded text of files: from the cache, or read now and put there.

    Raises ``CharlmError`` where the cache cannot be written, and what reading the files raises.
    """
    known = _seen(cache, paths, settings)
    if known is not None:
        return known
    try:
        return _read(cache, paths, settings, on_bytes)
    except OSError as error:
        raise unwritable(cache, error) from None


def unwritable(cache: Path, error: OSError) -> CharlmError:
    return CharlmError(
        f"{cache}: cannot write the cache: {error.strerror or error}.",
        f"Free up space (charlm cache clear), or use another folder: --cache-dir or {VARIABLE}.",
    )


def recall(cache: Path, sha256s: Sequence[str], settings: CorpusSettings) -> Encoded | None:
    """The encoded text of files that need not be there any more, by their sums."""
    return _opened(_place(cache, sha256s, settings))


def clean(cache: Path) -> int:
    """Remove what charlm keeps there, but for what another process is making just now; nothing that is not charlm's.

    Returns the bytes that are free now.
    """
    before = _size_bytes(cache)
    files.remove_half_built(cache / "texts")
    for path in (cache / "texts").glob("*"):
        if OUR_TEXT.fullmatch(path.name) and (path / encoded.IDS).is_file():
            with suppress(FileNotFoundError):  # another process cleans up too
                files.remove_folder(path)
    for path in (cache / "seen").glob("*.json"):
        if OUR_NOTE.fullmatch(path.name):
            files.remove_file(path)
    return before - _size_bytes(cache)


def _read(cache: Path, paths: Sequence[Path], settings: CorpusSettings, on_bytes: Callable[[int], object]) -> Encoded:
    making = cache / "texts"
    files.make_folder(making)
    files.remove_half_built(making)
    began_ns, stats_before = time.time_ns(), _stats(paths)
    with files.built(making) as building:
        read = encoded.build(building.folder, paths, settings, on_bytes)
        place = _place(cache, [source.sha256 for source in read], settings)
        _opened(place)  # a damaged one goes, or it would stay
        building.path = place
    result = _opened(place)
    if result is None:
        raise OSError(f"{place}: removed by another process")
    if stats_before is not None and stats_before == _stats(paths) and _settled(stats_before, began_ns):
        with suppress(OSError):  # a convenience: without it the text is read once more
            files.make_folder(cache / "seen")
            files.write_file(_note(cache, stats_before, settings), json.dumps({"text": place.name}).encode())
    return replace(result, files=read)  # the paths as they were named now


def _seen(cache: Path, paths: Sequence[Path], settings: CorpusSettings) -> Encoded | None:
    stats = _stats(paths)
    if stats is None:
        return None
    try:
        name = json.loads(_note(cache, stats, settings).read_bytes())["text"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(name, str) or not OUR_TEXT.fullmatch(name):  # a damaged note must not lead out of the cache
        return None
    found = _opened(cache / "texts" / name)
    if found is None or len(found.files) != len(paths):
        return None
    return replace(found, files=[replace(f, path=str(path)) for f, path in zip(found.files, paths, strict=True)])


def _opened(place: Path) -> Encoded | None:
    """An encoded text, or ``None`` where it is missing or not whole."""
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


def _note(cache: Path, stats: list[tuple[str, int, int, int]], settings: CorpusSettings) -> Path:
    return cache / "seen" / f"{_key(stats, _reading(settings))}.json"


def _place(cache: Path, sha256s: Sequence[str], settings: CorpusSettings) -> Path:
    return cache / "texts" / _key(list(sha256s), _reading(settings))


def _reading(settings: CorpusSettings) -> list[str]:
    """The settings that decide which characters bytes become."""
    codec = "" if settings.unit == "byte" else sources.codec_name(settings.encoding)
    return [settings.unit, codec, settings.decode_errors, settings.newline, settings.normalize]


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def _size_bytes(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += path.stat().st_size if path.is_file() else 0
    return sizes
