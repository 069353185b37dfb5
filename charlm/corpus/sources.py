"""Where text comes from: files, folders, patterns, standard input, compressed files, and the built-in corpus."""

import os
import re
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from charlm.config import CorpusSettings
from charlm.corpus.decoding import HEAD_BYTES, allows_nul, codec_name, looks_binary
from charlm.corpus.download import CORPORA, DOWNLOAD_FOLDER, download_path
from charlm.corpus.streams import DECOMPRESSION_ERRORS, DECOMPRESSORS, STANDARD_INPUT, decompress, open_binary
from charlm.errors import TextError, UsageError, did_you_mean, pluralize

BUILT_IN = "python"


def resolve_paths(names: Sequence[str], settings: CorpusSettings) -> list[Path]:
    """The files of a corpus, for names as given on the command line; none is the built-in corpus.

    A folder stands for the text files in it and below, in the order of their paths, without hidden ones; a pattern for
    what fits it. Raises ``UsageError`` for a name that is nothing of that, or a folder without text.
    """
    if is_built_in(names):
        return _standard_library_files()
    paths = []
    for name in names:
        try:
            found = _expand_name(name, settings)
            if name != str(STANDARD_INPUT):  # a file that has this name is another thing: charlm train ./-
                found = [path.absolute() if path == STANDARD_INPUT else path for path in found]
            paths += found
        except OSError as error:  # of a folder on the way
            raise UsageError(f"{error.filename or name}: cannot be read: {error.strerror}.") from None
    if paths.count(STANDARD_INPUT) > 1:
        raise UsageError("-: standard input can be named only once.", "Remove the extra -.")
    return paths


def corpus_name(names: Sequence[str]) -> str:
    """The corpus's name: the first file's, without its suffix, or the folder's, or ``stdin``."""
    if is_built_in(names):
        return BUILT_IN
    first = Path(names[0])
    if first == STANDARD_INPUT:
        return "stdin"
    with suppress(OSError):  # reading it will say what is wrong with it
        if first.is_dir():
            return first.resolve().name or "corpus"
        if not first.exists() and (found := _glob(names[0])):
            first = found[0]
    return Path(first.stem if first.suffix in DECOMPRESSORS else first.name).stem


def is_built_in(names: Sequence[str]) -> bool:
    return not names or (list(names) == [BUILT_IN] and not Path(BUILT_IN).exists())


def is_regular_file(path: Path) -> bool:
    """Whether it can be read again, and a change be seen: no pipe, no standard input."""
    return path != STANDARD_INPUT and path.is_file()


def _expand_name(name: str, settings: CorpusSettings) -> list[Path]:
    path = Path(name)
    if name == str(STANDARD_INPUT):
        return [path]
    if path.is_dir():
        return _text_files_in(path, settings)
    if path.exists():
        return [path]
    if found := [match for match in _glob(name) if match.is_file()]:
        return found
    if name not in CORPORA:
        known = [*CORPORA, BUILT_IN] if name.isalnum() else []  # else it is meant as a path
        raise UsageError(
            f"{name}: no such file.{did_you_mean(name, known)}",
            "Pass a file, a folder, a glob pattern, the name of a downloaded corpus, or - for standard input.",
        )
    if (downloaded := download_path(name, DOWNLOAD_FOLDER)).exists():
        return [downloaded]
    raise UsageError(f"{name}: no such file.", f"Download it with: charlm corpus get {name}")


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    if not re.search(r"[*?[]", pattern):
        return []
    try:
        return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{pattern}: invalid file pattern: {error}.", "To include subfolders, use folder/**/*.txt"
        ) from None


def _text_files_in(folder: Path, settings: CorpusSettings) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in names if not name.startswith(".")]
    texts = [path for path in sorted(found) if path.is_file() and _looks_like_text(path, settings)]
    if not texts:
        others = f"; {pluralize(len(found), 'other file')}" if found else ""
        raise UsageError(
            f"{folder}: no text files in this folder{others}.", "Choose a folder that contains text files."
        )
    return texts


def _raise(error: OSError) -> None:
    raise error


def _looks_like_text(path: Path, settings: CorpusSettings) -> bool:
    """Whether a file in a folder is taken, told by its first bytes; who names a file means it."""
    if settings.unit == "byte" or allows_nul(codec_name(settings.encoding)):
        return True
    with suppress(OSError, *DECOMPRESSION_ERRORS), open_binary(path) as file:
        return not looks_binary(decompress(file, path).read(HEAD_BYTES))
    return True  # reading it will say what is wrong with it


def _standard_library_files() -> list[Path]:
    """The top-level modules of the running Python's own standard library, some 4 MB, in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(folder.glob("*.py"))
    if not modules:
        raise TextError(
            f"{folder}: this Python installation has no standard library source files.", "Pass a text file instead."
        )
    return modules
