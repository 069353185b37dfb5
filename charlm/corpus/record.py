"""The record of a corpus, in ``corpus.json`` and in every checkpoint: enough to find the same text again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Range = Annotated[list[int], Field(min_length=2, max_length=2)]
"""First position and the one after the last."""


class Record(BaseModel):
    """Every field is required; a later version of charlm may have written more."""

    model_config = ConfigDict(strict=True, frozen=True)


class FileRecord(Record):
    """One file: its own bytes, still compressed, and the length of its text."""

    path: str
    size_bytes: int
    sha256: str
    length: int


class SplitRecord(Record):
    """Ranges of the whole text."""

    train: Range
    validation: Range
    test: Range


class CorpusRecord(Record):
    """Lengths and positions are in characters, or in bytes if that is the ``unit``."""

    name: str
    inputs: list[str]  # files, folders and patterns as given; none: the built-in corpus
    unit: str
    length: int
    alphabet_size: int
    num_documents: int
    files: list[FileRecord]
    split: SplitRecord
