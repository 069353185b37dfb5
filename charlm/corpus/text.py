"""A range of text as a model reads it: its ids and document starts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.vocabulary import Vocabulary

Ids = NDArray[np.integer[Any]]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """``raw_ids``: ids as stored on disk, ``(characters,)``; ``id_map``: the vocabulary's id for each of them.

    ``document_starts``: positions where a document begins, in order, counted from ``offset`` before the text's start. A
    text always starts with a zero state, whether a document starts there or not.
    """

    vocabulary: Vocabulary
    raw_ids: Ids
    id_map: NDArray[np.int64] | None = None  # None: identical
    document_starts: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    offset: int = 0

    @classmethod
    def from_string(cls, text: str, vocabulary: Vocabulary) -> "Text":
        return cls(vocabulary, vocabulary.encode(text))

    def __len__(self) -> int:
        return len(self.raw_ids)

    def __getitem__(self, where: "Positions | slice") -> NDArray[np.int64]:
        """The model's ids at some positions, or in a range."""
        raw_ids = self.raw_ids[where]
        return raw_ids.astype(np.int64) if self.id_map is None else self.id_map[raw_ids]

    def subrange(self, positions: range) -> "Text":
        raw_ids = self.raw_ids[positions.start : positions.stop]
        return Text(self.vocabulary, raw_ids, self.id_map, self.document_starts, self.offset + positions.start)

    def document_start_mask(self, positions: Positions) -> NDArray[np.bool_] | None:
        """A mask of the positions where a document begins, with the shape of ``positions`` (ascending along the first
        axis), or ``None`` if no document begins at any of them.
        """
        if not len(self.document_starts):
            return None
        absolute = positions + self.offset
        nearest = np.searchsorted(self.document_starts, absolute)
        starts_document = self.document_starts[np.minimum(nearest, len(self.document_starts) - 1)] == absolute
        return starts_document if starts_document.any() else None
