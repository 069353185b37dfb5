import re
import statistics as reference
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.analysis import text_statistics
from charlm.corpus.analysis.text_statistics import CharacterCount, LineEndings, LineLengths
from charlm.corpus.vocabulary import Vocabulary

texts = st.text("ab\r\n", max_size=60)
chunks = st.integers(1, 10)


@given(texts, chunks)
@example("", 1)
@example("\n", 1)
@example("no line end", 3)
def test_line_lengths_across_chunks(text: str, chunk: int) -> None:
    vocabulary = Vocabulary.from_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm.corpus.encoded_text.BLOCK", chunk)
        found = text_statistics.measure_line_lengths(
            vocabulary.encode(text) if text else np.array([], np.uint8), vocabulary
        )
    lengths = [len(line) for line in text.split("\n")]
    if not text or text.endswith("\n"):
        lengths.pop()
    if lengths:
        mean = pytest.approx(reference.fmean(lengths))
        assert found == LineLengths(len(lengths), reference.median(lengths), mean, max(lengths))
    else:
        assert found == LineLengths(0, 0.0, 0.0, 0)


def test_line_longer_than_id_range() -> None:
    ids = np.zeros(100_000, dtype=np.uint8)
    ids[-2] = 1
    found = text_statistics.measure_line_lengths(ids, Vocabulary(["\t", "\n"]))
    assert found == LineLengths(2, 49_999.5, 49_999.5, 99_998)


@given(texts.filter(bool), chunks)
@example("\r\n\n\r\r\n", 1)
@example("a\r\n", 2)
def test_line_endings_across_chunks(text: str, chunk: int) -> None:
    vocabulary = Vocabulary.from_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm.corpus.encoded_text.BLOCK", chunk)
        found = text_statistics.count_line_endings(vocabulary.encode(text), vocabulary)
    ends = Counter(re.findall("\r\n|\n|\r", text))
    assert found == LineEndings(crlf=ends["\r\n"], lone_lf=ends["\n"], lone_cr=ends["\r"])


def count_characters(text: str) -> tuple[list[str], "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    characters = sorted(set(text))
    return characters, np.array([text.count(character) for character in characters])


def test_control_characters_are_named_and_counted() -> None:
    found = text_statistics.find_control_characters(
        *count_characters("line\r\n\tone \x0c\x0c\x0c, two\N{SOFT HYPHEN}\x7f\x7f é 漢 🙂")
    )
    assert found == [
        CharacterCount("\x0c", r"'\x0c' (U+000C FORM FEED)", 3),
        CharacterCount("\x7f", r"'\x7f' (U+007F DELETE)", 2),
        CharacterCount("\xad", r"'\xad' (U+00AD SOFT HYPHEN)", 1),
    ]


control_characters = (
    "\0 \x1f \x7f \x85 \x9f \u200b \u200d \u202e \ufeff \U000e0001 \ud800 \ue000 \ufdd0 \ufffe \uffff \U0010ffff \ufffd"
)


@pytest.mark.parametrize("character", control_characters.split(" "), ids=ascii)
def test_invisible_characters_are_control_characters(character: str) -> None:
    assert [
        found.character for found in text_statistics.find_control_characters(*count_characters(f"a{character}b"))
    ] == [character]


@given(st.characters(categories=["L", "M", "N", "P", "S", "Z"], exclude_characters="\N{REPLACEMENT CHARACTER}"))
@example("\t")
@example("\n")
@example("\r")
@example("\u0378")  # not assigned in this version of Unicode: perhaps in the next
def test_ordinary_characters_are_not_control_characters(character: str) -> None:
    assert text_statistics.find_control_characters(*count_characters(character)) == []


def test_rare_characters_are_sorted_by_count() -> None:
    found = text_statistics.find_rare_characters(*count_characters("a" * 10 + "b" * 9 + "é" * 2 + "d" * 2 + "z"))
    assert [(rare.character, rare.count) for rare in found] == [("z", 1), ("d", 2), ("é", 2), ("b", 9)]
    assert found[2].description == f"'é' (U+00E9 {unicodedata.name('é')})"
    assert [
        rare.character for rare in text_statistics.find_rare_characters(*count_characters("aab"), fewer_than=2)
    ] == ["b"]


def test_absent_characters_are_not_rare() -> None:
    assert text_statistics.find_rare_characters(["a", "\0"], np.array([0, 0])) == []
    assert text_statistics.find_control_characters(["a", "\0"], np.array([1, 0])) == []
