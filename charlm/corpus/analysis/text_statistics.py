"""Statistics of a text that reveal problems before training.

Texts are read chunk by chunk, so that gigabytes in a memory map take only megabytes of memory.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.corpus.analysis.sorted_index import IntArray
from charlm.corpus.encoded_text import Ids, iter_blocks
from charlm.corpus.vocabulary import Vocabulary, describe_character


@dataclass(frozen=True)
class LineLengths:
    """Characters per line, without the final ``\\n``; a ``\\r`` before it is counted."""

    lines: int
    median: float
    mean: float
    longest: int


@dataclass(frozen=True)
class LineEndings:
    """Number of each line ending in the text; if more than one is nonzero, they are mixed."""

    crlf: int
    lone_lf: int
    lone_cr: int


@dataclass(frozen=True)
class CharacterCount:
    character: str
    description: str  # that any terminal can show
    count: int


def measure_line_lengths(ids: Ids, vocabulary: Vocabulary) -> LineLengths:
    """Line lengths of a text; characters after the last ``\\n`` are also a line. Zeros for an empty text."""
    # As a histogram: lines of n different lengths take at least n² / 2 characters, so there are never many
    lines: Counter[int] = Counter()
    unfinished = 0  # length so far of a line that continues in the next chunk
    for _, chunk in iter_blocks(ids):
        ends = np.flatnonzero(chunk == _id_of("\n", vocabulary))
        lengths, counts = np.unique(np.diff(ends, prepend=-1 - unfinished) - 1, return_counts=True)
        lines.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))
        unfinished = len(chunk) - 1 - int(ends[-1]) if ends.size else unfinished + len(chunk)
    if unfinished:
        lines[unfinished] += 1
    if not lines:
        return LineLengths(0, 0.0, 0.0, 0)
    lengths = np.array(sorted(lines))
    up_to = np.cumsum([lines[length] for length in lengths.tolist()])  # how many lines are no longer
    count = lines.total()
    middle = lengths[np.searchsorted(up_to, [(count - 1) // 2, count // 2], side="right")]
    total = sum(length * count for length, count in lines.items())
    return LineLengths(count, float(middle.mean()), total / count, int(lengths[-1]))


def count_line_endings(ids: Ids, vocabulary: Vocabulary) -> LineEndings:
    carriage_returns = line_feeds = pairs = 0
    after_carriage_return = False
    for _, chunk in iter_blocks(ids):
        is_cr, is_lf = chunk == _id_of("\r", vocabulary), chunk == _id_of("\n", vocabulary)
        carriage_returns += int(np.count_nonzero(is_cr))
        line_feeds += int(np.count_nonzero(is_lf))
        pairs += int(np.count_nonzero(is_cr[:-1] & is_lf[1:])) + (after_carriage_return and bool(is_lf[0]))
        after_carriage_return = bool(is_cr[-1])
    return LineEndings(pairs, line_feeds - pairs, carriage_returns - pairs)


def find_control_characters(characters: Sequence[str], counts: IntArray) -> list[CharacterCount]:
    """Control characters, which are rarely intended in text, the most frequent first."""
    found = [counted for counted in _count_characters(characters, counts) if _is_control(counted.character)]
    return sorted(found, key=lambda counted: (-counted.count, counted.character))


def find_rare_characters(characters: Sequence[str], counts: IntArray, fewer_than: int = 10) -> list[CharacterCount]:
    """Characters that are too rare to be learned, the rarest first."""
    found = [counted for counted in _count_characters(characters, counts) if counted.count < fewer_than]
    return sorted(found, key=lambda counted: (counted.count, counted.character))


def _is_control(character: str) -> bool:
    """Whether a character is a control other than tab and line endings, or invisible: format characters (byte order
    marks, joiners, directions), surrogates, private use, noncharacters, and U+FFFD, which replaces undecodable bytes.
    """
    code_point = ord(character)
    is_noncharacter = code_point & 0xFFFE == 0xFFFE or 0xFDD0 <= code_point <= 0xFDEF  # Unicode, section 23.7
    is_invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") and character not in "\t\n\r"
    return is_invisible or is_noncharacter or character == "\N{REPLACEMENT CHARACTER}"


def _count_characters(characters: Sequence[str], counts: IntArray) -> Iterator[CharacterCount]:
    """Yield the characters that occur."""
    for id_ in np.flatnonzero(counts).tolist():
        yield CharacterCount(characters[id_], describe_character(characters[id_]), int(counts[id_]))


def _id_of(character: str, vocabulary: Vocabulary) -> int:
    """The id of a character, or −1 if it does not occur."""
    return vocabulary.characters.index(character) if character in vocabulary.characters else -1
