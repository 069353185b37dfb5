"""Documents in another order, whole: a permuted copy of a text, made once, beside its ids in the cache.

A sorted list has the end of the alphabet as its validation split. Shuffled before it is divided, each split is a sample
of the whole. The order depends on nothing but the number of documents and :data:`SEED`: not on ``--seed``, so that runs
with different seeds are compared on the same text, and not on numpy's generators, which may change between versions.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlm import files
from charlm.config import CorpusSettings
from charlm.corpus import cache
from charlm.corpus.encoded import BLOCK, Encoded, Ids
from charlm.corpus.text import Positions
from charlm.corpus.vocabulary import Vocabulary

SEED = 1


@dataclass(frozen=True)
class Order:
    """Where each document is read and where it is written, in the new order: ``(documents,)``."""

    sources: Positions
    starts: Positions


def shuffle(encoded: Encoded, starts: Positions, settings: CorpusSettings) -> tuple[Encoded, Positions]:
    """The text with its documents, which begin at ``starts``, in another order, and where they begin there.

    A last document that lacks the separator stays the last: in another place the next one would continue it.
    """
    last_stays = not _ends_with_separator(encoded, settings)
    order = _order(np.asarray(starts), len(encoded.ids), last_stays)
    key = hashlib.sha256(json.dumps([SEED, last_stays]).encode() + np.asarray(starts).tobytes()).hexdigest()[:32]
    name = f"shuffled-{key}.bin"
    path = encoded.folder / name
    ids = _opened(path, encoded) if path.is_file() else None
    if ids is None:

        def write(folder: Path) -> Ids:
            files.make_folder(folder)
            _write(folder / name, encoded.ids, order)
            written = _opened(folder / name, encoded)
            assert written is not None, "it has just been written"
            return written

        try:
            ids = write(encoded.folder)
        except OSError as error:
            folder = encoded.folder
            ids = cache.with_substitute(folder.parent.parent, error, lambda other: write(other / folder.name))
    return replace(encoded, ids=ids), order.starts


def _order(starts: Positions, characters: int, last_stays: bool) -> Order:
    lengths = np.diff(starts, append=characters)
    moved = len(starts) - last_stays
    permutation = np.append(np.argsort(_hashes(moved), kind="stable"), np.arange(moved, len(starts)))
    new_lengths = lengths[permutation]
    return Order(starts[permutation], np.cumsum(new_lengths) - new_lengths)


def _hashes(count: int) -> NDArray[np.uint64]:
    """A pseudorandom number for each of 0, 1, …: the SplitMix64 sequence (Steele, Lea and Flood 2014) from ``SEED``."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(SEED << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _write(path: Path, ids: Ids, order: Order) -> None:
    """The permuted copy, a block at a time."""
    shift = order.sources - order.starts
    with files.written(path) as file:
        for first in range(0, len(ids), BLOCK):
            positions = np.arange(first, min(first + BLOCK, len(ids)))
            document = np.searchsorted(order.starts, positions, side="right") - 1
            file.write(ids[positions + shift[document]].data)


def _opened(path: Path, encoded: Encoded) -> Ids | None:
    """The permuted copy, or ``None`` if it is not whole."""
    if path.stat().st_size != len(encoded.ids) * encoded.ids.itemsize:
        return None
    return np.memmap(path, dtype=encoded.ids.dtype, mode="r")


def _ends_with_separator(encoded: Encoded, settings: CorpusSettings) -> bool:
    alphabet = "".join(encoded.alphabet)
    spelled = Vocabulary([], settings.unit).spelled(settings.document_separator)
    ending = "".join(alphabet[id_] for id_ in encoded.ids[-len(spelled) :].tolist()) if spelled else ""
    return ending == spelled
