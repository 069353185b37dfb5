"""Find where documents start: after each separator, which belongs to the preceding document, and at file starts."""

from collections.abc import Iterator

import numpy as np

from charlm.config import CorpusSettings
from charlm.corpus.encoded_text import EncodedText, iter_blocks
from charlm.corpus.text import Positions
from charlm.corpus.vocabulary import Vocabulary


def find_document_starts(encoded: EncodedText, settings: CorpusSettings, file_starts: Positions) -> Iterator[Positions]:
    """Yield 0, the position after each non-overlapping separator (left to right), and ``file_starts``.

    In ascending order, block by block of the text.
    """
    # With unit byte, the ids of its bytes; -1 is a character that does not occur in the text
    separator = Vocabulary(encoded.alphabet).lookup_ids(
        Vocabulary([], settings.unit).to_units(settings.document_separator)
    )
    length = len(separator)
    last = -length  # start of the last separator found
    for first, block in iter_blocks(encoded.ids, overlap=length - 1):
        matches = np.ones(max(0, len(block) - length + 1), dtype=bool)
        for shift, id_ in enumerate(separator.tolist()):
            matches &= block[shift : shift + len(matches)] == id_
        at = np.flatnonzero(matches) + first
        if length > 1:  # "aa" in "aaa" is found once
            kept = []
            for start in at.tolist():
                if start >= last + length:
                    kept.append(last := start)
            at = np.array(kept, dtype=np.int64)
        # separators that start in this block end before those of the next one
        done, to_do = (first + length if first else 0), first + len(block) + 1
        here = file_starts[np.searchsorted(file_starts, done) : np.searchsorted(file_starts, to_do)]
        found = np.union1d(np.append(at + length, here), np.zeros(0 if first else 1, dtype=np.int64))
        yield found[found < len(encoded.ids)]


def ends_with_separator(encoded: EncodedText, settings: CorpusSettings) -> bool:
    alphabet = "".join(encoded.alphabet)
    spelled = Vocabulary([], settings.unit).to_units(settings.document_separator)
    ending = "".join(alphabet[id_] for id_ in encoded.ids[-len(spelled) :].tolist()) if spelled else ""
    return ending == spelled
