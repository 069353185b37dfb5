"""Find the files of a corpus: files, folders, glob patterns, standard input, and the built-in corpus."""

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
    """The files of a corpus, for names as given on the command line; no names: the built-in corpus.

    A folder stands for the text files in it and its subfolders, in path order, without hidden ones; a pattern for its
    matches. Raises ``UsageError`` for any other name, or a folder without text files.
    """
    if is_built_in(names):
        return _standard_library_files()
    paths = []
    for name in names:
        try:
            found = _expand_name(name, settings)
            if name != str(STANDARD_INPUT):  # unlike a file of this name: charlm train ./-
                found = [path.absolute() if path == STANDARD_INPUT else path for path in found]
            paths += found
        except OSError as error:  # from a folder in the path
            raise UsageError(f"{error.filename or name}: cannot be read: {error.strerror}.") from None
    if paths.count(STANDARD_INPUT) > 1:
        raise UsageError("-: standard input can be named only once.", "Remove the extra -.")
    return paths


def corpus_name(names: Sequence[str]) -> str:
    """The name of a corpus: that of its first file without suffix, or of its folder, or ``stdin``."""
    if is_built_in(names):
        return BUILT_IN
    first = Path(names[0])
    if first == STANDARD_INPUT:
        return "stdin"
    with suppress(OSError):  # errors are reported when it is read
        if first.is_dir():
            return first.resolve().name or "corpus"
        if not first.exists() and (found := _glob(names[0])):
            first = found[0]
    return Path(first.stem if first.suffix in DECOMPRESSORS else first.name).stem


def is_built_in(names: Sequence[str]) -> bool:
    return not names or (list(names) == [BUILT_IN] and not Path(BUILT_IN).exists())


def is_regular_file(path: Path) -> bool:
    """Whether a path can be read again and checked for changes: not a pipe or standard input."""
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
        known = [*CORPORA, BUILT_IN] if name.isalnum() else []  # otherwise it looks like a path
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
    """Whether a file found in a folder looks like text, judging by its first bytes. Files named explicitly are always
    used.
    """
    if settings.unit == "byte" or allows_nul(codec_name(settings.encoding)):
        return True
    with suppress(OSError, *DECOMPRESSION_ERRORS), open_binary(path) as file:
        return not looks_binary(decompress(file, path).read(HEAD_BYTES))
    return True  # errors are reported when it is read


def _standard_library_files() -> list[Path]:
    """The top-level modules of this Python's standard library, about 4 MB, in name order."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(folder.glob("*.py"))
    if not modules:
        raise TextError(
            f"{folder}: this Python installation has no standard library source files.", "Pass a text file instead."
        )
    return modules
