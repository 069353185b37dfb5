"""Where documents begin: after a separator, which is the last thing of the document before, and where files begin."""

import hashlib
import json
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
    separator = settings.document_separator
    of_files = encoded.file_starts if settings.document_per_file else np.empty(0, dtype=np.int64)
    if not separator:
        return of_files
    key = hashlib.sha256(json.dumps([separator, of_files.tolist()]).encode()).hexdigest()[:32]
    name = f"document_starts-{key}.bin"
    path = encoded.folder / name
    found = _opened(path)
    if found is None:
        # the characters of its bytes, where bytes are the characters
        spelled = Vocabulary([], settings.unit).spelled(separator)
        separator_ids = Vocabulary(encoded.alphabet).ids_of(spelled).tolist()

        def write(folder: Path) -> Positions:
            files.make_folder(folder)
            _write_starts(folder / name, encoded.ids, separator_ids, of_files)
            written = _opened(folder / name)
            assert written is not None, "it has just been written"
            return written

        try:
            found = write(encoded.folder)
        except OSError as error:
            found = cache.with_substitute(encoded.folder.parent.parent, error, lambda f: write(f / encoded.folder.name))
    if len(found) == 1 and required:
        raise TextError(
            f"--document-separator {separator!r}: there is no document boundary in this text.",
            "Check how the documents are separated.",
        )
    return found


def _opened(path: Path) -> Positions | None:
    """What :func:`_write_starts` wrote, or ``None`` where it is missing or not whole."""
    if not path.is_file() or not path.stat().st_size or path.stat().st_size % 8:
        return None
    stored = np.memmap(path, dtype="<i8", mode="r")
    return stored[:-1] if stored[-1] == -len(stored) + 1 else None


def _write_starts(path: Path, ids: Ids, separator: list[int], of_files: Positions) -> None:
    """0, what follows each separator, these found from left to right, none overlapping another, and where files begin.

    An id of -1 is a character that the text does not have. The last number is minus how many came before it.
    """
    length, count = len(separator), 0
    last = -length  # start of the separator that was found last
    with files.written(path) as file:
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
            # separators that begin in this block end up to where the next one's do
            done, to_do = (first + length if first else 0), first + len(block) + 1
            here = of_files[np.searchsorted(of_files, done) : np.searchsorted(of_files, to_do)]
            found = np.union1d(np.append(at + length, here), np.zeros(0 if first else 1, dtype=np.int64))
            found = found[found < len(ids)]
            count += len(found)
            file.write(found.astype("<i8").data)
        file.write(np.array([-count], dtype="<i8").data)
