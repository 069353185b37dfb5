"""Find long passages that occur in both the training and the validation text, which a model may have memorized.

Boilerplate, quotations and duplicate files make the validation loss too optimistic. Runs in linear time for any text;
memory is proportional to the validation text.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from charlm.corpus.analysis.sorted_index import IntArray, find_sorted
from charlm.corpus.encoded_text import Ids

MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2⁶⁴; else arbitrary
CHUNK = 2**18  # characters of the training text at a time: what the processor's cache holds


@dataclass(frozen=True)
class Passage:
    """A passage that is identical in both texts, up to where they differ or end. Starts are relative to their texts."""

    validation_start: int
    train_start: int
    length: int


@dataclass(frozen=True)
class Overlap:
    min_length: int  # of a passage that counts, in characters
    validation_characters: int  # covered by at least one passage
    validation_characters_checked: int
    longest: list[Passage]


def find_overlap(train: Ids, validation: Ids, length: int = 100, limit: int = 5) -> Overlap:
    """The passages of at least ``length`` characters that both texts have, and the longest of them, ``limit`` of them.

    The count of validation characters is exact: all such passages are found. (A collision of 64-bit hashes could hide
    one; it can add none, since what is found is compared.) Of the places in the training text where a passage begins,
    only one is followed, so that time stays bounded: that with the most windows after it that stand anywhere in the
    validation text. So where both texts are made of the same few pieces in changing orders, a passage that is longer
    than those listed may be missed; those listed are as long as it says.
    """
    if min(len(train), len(validation)) < length:
        return Overlap(length, 0, len(validation), [])
    # Windows are all passages of exactly that length; equal ones are of one kind
    known, examples, kinds = np.unique(_window_hashes(validation, length), return_index=True, return_inverse=True)
    starts = _best_starts(train, validation, known, length)
    _drop_collisions(starts, examples, train, validation, length)
    found = np.flatnonzero(starts[kinds] >= 0)  # validation windows, by their starts
    covered = np.minimum(np.diff(found, append=found[-1:] + length), length).sum()
    passages = _passages(found, starts[kinds[found]], train, validation, length)
    longest = heapq.nlargest(limit, passages, key=lambda passage: passage.length)
    return Overlap(length, int(covered), len(validation), longest)


def _best_starts(train: Ids, validation: Ids, known: NDArray[np.uint64], length: int) -> IntArray:
    """A position of each known hash in the training text, −1 if it does not occur.

    Of several positions, one followed by the longest run of windows that also occur in the validation text.
    """
    best_start = np.full(len(known), -1)
    best_run = np.zeros(len(known), dtype=np.int64)
    next_start, next_run = -1, 0  # of the chunk after this one: its first occurrence, and how many follow without a gap
    for starts, kinds in _occurrences(train, validation, known, length):
        last_of_run = np.flatnonzero(np.diff(starts, append=-1) != 1)
        ends = starts[last_of_run] + 1
        if ends[-1] == next_start:
            ends[-1] += next_run
        run = np.repeat(ends, np.diff(last_of_run, prepend=-1)) - starts
        next_start, next_run = starts[0], run[0]
        np.maximum.at(best_run, kinds, run)
        is_best = run == best_run[kinds]
        best_start[kinds[is_best]] = starts[is_best]
    return best_start


def _occurrences(
    train: Ids, validation: Ids, known: NDArray[np.uint64], length: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """The windows of the training text whose hashes are known, chunk by chunk from its end: starts, places in known.

    Every window holds a whole block, one of the passages of half its length that stand side by side from the start of
    the text. Only windows whose first block is in the validation text are hashed and looked up themselves.
    """
    block = (length + 1) // 2
    known_blocks = np.unique(_window_hashes(validation, block))
    weights = _powers(MULTIPLIER, block)
    chunk = max(CHUNK // block, 1) * block
    for first in reversed(range(0, len(train) - length + 1, chunk)):
        ids = train[first : first + chunk + length - 1]
        blocks = ids[: len(ids) // block * block].reshape(-1, block)
        is_known = find_sorted(known_blocks, blocks.astype(np.uint64) @ weights) >= 0
        if is_known.any():
            # Window 0 begins with block 0, windows 1 to `block` have block 1 as their first, and so on
            candidates = np.flatnonzero(np.repeat(is_known, block)[block - 1 :][: len(ids) - length + 1])
            places = find_sorted(known, _window_hashes(ids, length)[candidates])
            if (places >= 0).any():
                yield first + candidates[places >= 0], places[places >= 0]


def _drop_collisions(starts: IntArray, examples: IntArray, train: Ids, validation: Ids, length: int) -> None:
    """Set starts to −1 where the training text differs from the example in the validation text."""
    found = np.flatnonzero(starts >= 0)
    for some in np.split(found, range(CHUNK // length + 1, len(found), CHUNK // length + 1)):
        in_train = sliding_window_view(train, length)[starts[some]]
        in_validation = sliding_window_view(validation, length)[examples[some]]
        starts[some[(in_train != in_validation).any(axis=1)]] = -1


def _passages(found: IntArray, starts: IntArray, train: Ids, validation: Ids, length: int) -> Iterator[Passage]:
    """Passages that make up all windows found, from left to right, each as long as the texts agree.

    ``found``: starts of windows in the validation text; ``starts``: where the same stand in the training text.
    """
    # Pieces: windows that follow one another in both texts
    last = np.flatnonzero((np.diff(found, append=-2) != 1) | (np.diff(starts, append=-2) != 1))
    first = np.append(0, last + 1)
    ends = found[last] + length  # ascending
    piece = 0
    while piece < len(ends):
        validation_start, train_start, end = int(found[first[piece]]), int(starts[first[piece]]), int(ends[piece])
        end += _common_prefix_length(train[train_start + end - validation_start :], validation[end:])
        yield Passage(validation_start, train_start, end - validation_start)
        # Pieces that this passage holds are done with. So no character is compared twice
        piece = int(np.searchsorted(ends, end, side="right"))


def _common_prefix_length(left: Ids, right: Ids) -> int:
    """The length of the common prefix of two texts."""
    agreed, size = 0, 64
    while agreed < min(len(left), len(right)):
        here = min(size, len(left) - agreed, len(right) - agreed)
        differing = np.flatnonzero(left[agreed : agreed + here] != right[agreed : agreed + here])
        if differing.size:
            return agreed + int(differing[0])
        agreed += here
        size *= 2
    return agreed


def _window_hashes(ids: Ids, length: int) -> NDArray[np.uint64]:
    """Σ ids[i + j] MULTIPLIERʲ modulo 2⁶⁴ over j < length, for all windows i (Karp and Rabin, 1987)."""
    sums = np.zeros(len(ids) + 1, dtype=np.uint64)
    np.cumsum(ids.astype(np.uint64) * _powers(MULTIPLIER, len(ids)), out=sums[1:])
    hashes: NDArray[np.uint64] = sums[length:] - sums[:-length]
    return hashes * _powers(pow(MULTIPLIER, -1, 2**64), len(hashes))


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """Base to the powers 0, 1, …, count − 1, modulo 2⁶⁴."""
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
