"""Shuffle whole documents.

The validation split of a sorted list is the end of the alphabet. If documents are shuffled first, each split is a
sample of the whole. The order depends on nothing but the number of documents and :data:`SEED`: not on ``--seed``, so
that runs with different seeds are compared on the same text, and not on numpy's generators, which may change between
versions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.encoded_text import BLOCK, Ids
from charlm.corpus.text import Positions

SEED = 1


@dataclass(frozen=True)
class Order:
    """The old and the new start of each document, in the new order: ``(documents,)``."""

    sources: Positions
    starts: Positions


def shuffle(starts: Positions, length: int, last_stays: bool) -> Order:
    """A new order of the documents that begin at ``starts`` in a text of this length.

    ``last_stays``: the last document has no separator at its end; elsewhere, the next document would be joined to it.
    """
    lengths = np.diff(starts, append=length)
    moved = len(starts) - last_stays
    permutation = np.append(np.argsort(_hashes(moved), kind="stable"), np.arange(moved, len(starts)))
    new_lengths = lengths[permutation]
    return Order(starts[permutation], np.cumsum(new_lengths) - new_lengths)


def reorder(ids: Ids, order: Order) -> Iterator[Ids]:
    """The text in the new order, block by block."""
    shift = order.sources - order.starts
    for first in range(0, len(ids), BLOCK):
        positions = np.arange(first, min(first + BLOCK, len(ids)))
        document = np.searchsorted(order.starts, positions, side="right") - 1
        yield ids[positions + shift[document]]


def _hashes(count: int) -> NDArray[np.uint64]:
    """A pseudorandom number for each of 0, 1, …: the SplitMix64 sequence (Steele, Lea and Flood 2014) from ``SEED``."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(SEED << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
