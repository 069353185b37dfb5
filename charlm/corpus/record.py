"""The record of a corpus: enough to find and identify the same text again.

Every checkpoint contains one; :mod:`charlm.run_corpus` adds the content of a run's ``corpus.json``.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from charlm import files

Range = Annotated[list[int], Field(min_length=2, max_length=2)]
"""First position and the one after the last."""


def _is_string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


Name = Annotated[str, PlainValidator(_is_string)]
"""Of a file: bytes that are not UTF-8 are surrogates, as Python has them, which pydantic's own strings may not hold."""


class Record(BaseModel):
    """Every field is required; later versions of charlm may have written more."""

    model_config = ConfigDict(strict=True, frozen=True)


class FileRecord(Record):
    """One file: size and hash of its raw (compressed) bytes, and the length of its text."""

    path: Name
    size_bytes: int
    sha256: str
    length: int


def hash_files(records: Iterable[FileRecord]) -> str:
    """The hash that identifies the text of a run: the SHA-256 of the files' SHA-256s, in order."""
    return files.sha256("".join(f"{record.sha256}\n" for record in records).encode())


class SplitRecord(Record):
    """Ranges of the whole text."""

    train: Range
    validation: Range
    test: Range


class CorpusRecord(Record):
    """Lengths and positions are in characters, or in bytes if ``unit`` is byte."""

    name: Name
    built_in: bool
    unit: str
    length: int
    alphabet_size: int
    num_documents: int
    num_files: int
    files_sha256: str  # of the files' SHA-256s, a line each
    shuffle_seed: int | None  # of the order of documents; null: as in the files
    split: SplitRecord
