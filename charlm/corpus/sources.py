"""Where text comes from: files, folders, patterns, standard input, compressed files, and the built-in corpus."""

import bz2
import codecs
import gzip
import hashlib
import lzma
import os
import re
import stat
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from charlm.config import CorpusSettings
from charlm.corpus.download import CORPORA, DOWNLOADS, place
from charlm.corpus.pipes import open_text
from charlm.corpus.record import FileRecord
from charlm.errors import TextError, UsageError, did_you_mean, pluralize, quote

BUILT_IN = "python"
STANDARD_INPUT = Path("-")
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 1 << 12  # what is looked at to tell text from other files


class Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Hashed:
    """A stream that is hashed and counted as it is read."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        self.size_bytes += len(data)
        return data

    def record(self, path: Path, length: int) -> FileRecord:
        return FileRecord(path=str(path), size_bytes=self.size_bytes, sha256=self.digest.hexdigest(), length=length)


class Explained:
    """A stream whose faults are told in words, with the file they are of."""

    def __init__(self, stream: Stream, path: Path) -> None:
        self.stream = stream
        self.path = path

    def read(self, size: int = -1, /) -> bytes:
        """Raises ``TextError`` where a compressed file is damaged, ``UsageError`` where it cannot be read."""
        try:
            return self.stream.read(size)
        except OSError as error:
            if error.errno is not None:  # else it is of a decompressor
                raise UsageError(f"{self.path}: cannot be read: {error.strerror}.") from None
            damage: Exception = error
        except DAMAGED as error:
            damage = error
        raise TextError(f"{self.path}: damaged {self.path.suffix} file: {damage}.", "Get a new copy of it.")


def find(names: Sequence[str], settings: CorpusSettings) -> list[Path]:
    """The files of a corpus, for names as given on the command line; none is the built-in corpus.

    A folder stands for the text files in it and below, in the order of their paths, without hidden ones; a pattern for
    what fits it. Raises ``UsageError`` for a name that is nothing of that, or a folder without text.
    """
    if is_built_in(names):
        return _standard_library()
    paths = []
    for name in names:
        try:
            found = _expanded(name, settings)
            if name != str(STANDARD_INPUT):  # a file that has this name is another thing: charlm train ./-
                found = [path.absolute() if path == STANDARD_INPUT else path for path in found]
            paths += found
        except OSError as error:  # of a folder on the way
            raise UsageError(f"{error.filename or name}: cannot be read: {error.strerror}.") from None
    if paths.count(STANDARD_INPUT) > 1:
        raise UsageError("-: standard input can be named only once.", "Remove the extra -.")
    return paths


def name_of(names: Sequence[str]) -> str:
    """The corpus's name: the first file's, without its suffix, or the folder's, or ``stdin``."""
    if is_built_in(names):
        return BUILT_IN
    first = Path(names[0])
    if first == STANDARD_INPUT:
        return "stdin"
    with suppress(OSError):  # reading it will say what is wrong with it
        if first.is_dir():
            return first.resolve().name or "corpus"
        if not first.exists() and (found := _matches(names[0])):
            first = found[0]
    return Path(first.stem if first.suffix in OPENERS else first.name).stem


def is_built_in(names: Sequence[str]) -> bool:
    return not names or (list(names) == [BUILT_IN] and not Path(BUILT_IN).exists())


def is_file(path: Path) -> bool:
    """Whether it can be read again, and a change be seen: no pipe, no standard input."""
    return path != STANDARD_INPUT and path.is_file()


@contextmanager
def opened(path: Path) -> Iterator[tuple[Stream, Hashed]]:
    """The stream of a file's text, decompressed, and that of its own bytes.

    Raises ``UsageError`` if it cannot be read, ``TextError`` if it is damaged or changes meanwhile.
    """
    if path == STANDARD_INPUT:
        file: Any = sys.stdin.buffer
        before = None
    else:
        file = _readable(path)
        before = os.fstat(file.fileno())
    hashed = Hashed(file)
    try:
        yield Explained(OPENERS.get(path.suffix, _plain)(hashed), path), hashed
        while Explained(hashed, path).read(CHUNK_BYTES):  # what a decompressor leaves behind is part of the file too
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


def codec_name(encoding: str) -> str:
    """The name that Python has for an encoding of text. Raises ``UsageError`` if there is none."""
    try:
        found = codecs.lookup(encoding)
        if found._is_text_encoding and found.name != "undefined":
            return found.name
    except LookupError:
        pass
    raise UsageError(f"--encoding {encoding}: unknown text encoding.", "Common ones: utf-8, latin-1, cp1252.")


def is_wide(codec: str) -> bool:
    """Whether texts in this encoding hold NUL bytes by right."""
    return codec.startswith(("utf-16", "utf-32"))


def looks_binary(data: bytes) -> bool:
    """Whether bytes are hardly those of a text: a NUL is among them, and no byte order mark says why."""
    return b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))


def _expanded(name: str, settings: CorpusSettings) -> list[Path]:
    path = Path(name)
    if name == str(STANDARD_INPUT):
        return [path]
    if path.is_dir():
        return _texts_below(path, settings)
    if path.exists():
        return [path]
    if found := [match for match in _matches(name) if match.is_file()]:
        return found
    if name not in CORPORA:
        known = [*CORPORA, BUILT_IN] if name.isalnum() else []  # else it is meant as a path
        raise UsageError(
            f"{name}: no such file.{did_you_mean(name, known)}",
            "Pass a file, a folder, a glob pattern, the name of a downloaded corpus, or - for standard input.",
        )
    if (downloaded := place(name, DOWNLOADS)).exists():
        return [downloaded]
    raise UsageError(f"{name}: no such file.", f"Download it with: charlm corpus get {name}")


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    if not re.search(r"[*?[]", pattern):
        return []
    try:
        return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{pattern}: invalid file pattern: {error}.", "To include subfolders, use folder/**/*.txt"
        ) from None


def _texts_below(folder: Path, settings: CorpusSettings) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    texts = [path for path in sorted(found) if path.is_file() and _is_text(path, settings)]
    if not texts:
        others = f"; {pluralize(len(found), 'other file')}" if found else ""
        raise UsageError(
            f"{folder}: no text files in this folder{others}.", "Choose a folder that contains text files."
        )
    return texts


def _raise(error: OSError) -> None:
    raise error


def _is_text(path: Path, settings: CorpusSettings) -> bool:
    """Whether a file in a folder is taken, told by its first bytes; who names a file means it."""
    if settings.unit == "byte" or is_wide(codec_name(settings.encoding)):
        return True
    with suppress(OSError, *DAMAGED), _readable(path) as file:
        return not looks_binary(OPENERS.get(path.suffix, _plain)(file).read(HEAD_BYTES))
    return True  # reading it will say what is wrong with it


def _readable(path: Path) -> IO[bytes]:
    if path.suffix == ".zst" and ".zst" not in OPENERS:
        raise UsageError(
            f"{path}: reading .zst files requires Python 3.14 or later.",
            f"Or decompress it first: zstd -d {quote(path)}",
        )
    try:
        return open_text(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _plain(stream: Stream) -> Stream:
    return stream


def _gzip(stream: Any) -> Stream:
    return gzip.GzipFile(fileobj=stream)


OPENERS: dict[str, Callable[[Any], Stream]] = {".gz": _gzip, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
DAMAGED: tuple[type[Exception], ...] = (EOFError, zlib.error, lzma.LZMAError)
with suppress(ImportError):  # from Python 3.14 on
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    OPENERS[".zst"] = zstd.ZstdFile
    DAMAGED = (*DAMAGED, zstd.ZstdError)


def _standard_library() -> list[Path]:
    """The top-level modules of the running Python's own standard library, some 4 MB, in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(folder.glob("*.py"))
    if not modules:
        raise TextError(
            f"{folder}: this Python installation has no standard library source files.", "Pass a text file instead."
        )
    return modules
