"""Where text comes from: files, and the built-in corpus."""

import codecs
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from charlm.errors import TextError, UsageError
from charlm.files import sha256

BUILT_IN = "python"


@dataclass(frozen=True)
class Source:
    """One file as it was read."""

    path: str
    size_bytes: int
    sha256: str
    characters: int

    def record(self) -> dict[str, Any]:
        return asdict(self)


def find(names: Sequence[str]) -> tuple[str, list[Path]]:
    """The corpus's name and its files, for names as given on the command line; none is the built-in corpus.

    Raises ``UsageError`` for a name that is no file.
    """
    if not names or (list(names) == [BUILT_IN] and not Path(BUILT_IN).exists()):
        return BUILT_IN, _standard_library()
    for name in names:
        path = Path(name)
        if path.is_dir():
            raise UsageError(f"{name}: is a folder.", f"Name the text files in it: charlm train {path / '*.txt'}")
        if not path.exists():
            raise UsageError(f"{name}: no such file.", "Without a name, the built-in corpus is used.")
    return Path(names[0]).stem, [Path(name) for name in names]


def read(paths: Sequence[Path], encoding: str) -> tuple[str, list[Source]]:
    """The text of all files, one after another, and what was read. Line ends stay; a byte order mark goes.

    Raises ``TextError`` for bytes that do not decode, ``UsageError`` for an unknown encoding or an unreadable file.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise UsageError(f"--encoding {encoding}: no such encoding.", "Common ones: utf-8, latin-1, cp1252.") from None
    texts, sources = [], []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}.") from None
        text = _decode(path, data, codec)
        texts.append(text)
        sources.append(Source(str(path), len(data), sha256(data), len(text)))
    return "".join(texts), sources


def _decode(path: Path, data: bytes, codec: str) -> str:
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"{path}: not {codec}: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}).",
            "If it is in another encoding, name it: --encoding latin-1, say.",
        ) from None
    except (LookupError, UnicodeError):  # codecs of bytes to bytes, and "undefined"
        raise UsageError(f"--encoding {codec}: not an encoding of text.", "Common ones: utf-8, latin-1.") from None
    return text.removeprefix("\ufeff")


def _standard_library() -> list[Path]:
    """The top-level modules of the running Python's own standard library, some 4 MB, in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(folder.glob("*.py"))
    if not modules:
        raise TextError(f"{folder}: this Python keeps no sources of its standard library.", "Name a text file.")
    return modules
