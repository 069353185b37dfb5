"""Where documents begin: after a separator, which is the last thing of the document before, and where files begin."""

import hashlib
from pathlib import Path

import numpy as np

from charlm import files
from charlm.config import CorpusSettings
from charlm.corpus import cache
from charlm.corpus.encoded import Encoded, Ids, blocks
from charlm.corpus.text import Positions
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError


def starts(encoded: Encoded, settings: CorpusSettings, required: bool = True) -> Positions:
    """Positions where documents begin, in order; none where ``settings`` know no documents.

    Those after a separator are found once and kept beside the ids. Raises ``TextError`` if it occurs nowhere and is
    ``required``: a text may be one document.
    """
    if not settings.document_separator and not settings.document_per_file:
        return np.empty(0, dtype=np.int64)
    found = np.empty(0, dtype=np.int64)
    if separator := settings.document_separator:
        name = hashlib.sha256(separator.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        path = encoded.folder / f"documents-{name}.bin"
        if not path.exists():
            spelled = separator.encode().decode("latin-1") if settings.unit == "byte" else separator
            try:
                _write_starts(path, encoded.ids, Vocabulary(encoded.alphabet).ids_of(spelled).tolist())
            except OSError as error:
                raise cache.unwritable(encoded.folder.parent.parent, error) from None
        found = np.memmap(path, dtype="<i8", mode="r")
        if len(found) == 1 and required:
            raise TextError(f"--document-separator {separator!r}: ends no document of this text.", "Look how they end.")
    return np.union1d(found, encoded.file_starts) if settings.document_per_file else found


def _write_starts(path: Path, ids: Ids, separator: list[int]) -> None:
    """0 and the positions right after each separator, found from left to right, none of them overlapping another.

    An id of -1 is a character that the text does not have.
    """
    length = len(separator)
    last = -length  # start of the separator that was found last
    with files.written(path) as file:
        file.write(np.zeros(1, "<i8").data)
        for first, block in blocks(ids, overlap=length - 1):
            matches = np.ones(max(0, len(block) - length + 1), dtype=bool)
            for shift, id_ in enumerate(separator):
                matches &= block[shift : shift + len(matches)] == id_
            at = np.flatnonzero(matches) + first
            if length > 1:  # "aa" in "aaa" is found once
                kept = []
                for start in at.tolist():
                    if start >= last + length:
                        kept.append(last := start)
                at = np.array(kept, dtype=np.int64)
            ends = at + length
            file.write(ends[ends < len(ids)].astype("<i8").data)
