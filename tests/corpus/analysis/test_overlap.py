from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.analysis import overlap as module
from charlm.corpus.analysis.overlap import Overlap, Passage, find_overlap
from charlm.corpus.encoded_text import Ids

ALL = 10**6

texts = st.integers(1, 4).flatmap(lambda letters: st.text("abcd"[:letters], max_size=80))


def as_ids(text: str) -> Ids:
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8)


def covered(train: str, validation: str, length: int) -> set[int]:
    """Places of the validation text that lie in a passage which the training text has too."""
    starts = [start for start in range(len(validation) - length + 1) if validation[start : start + length] in train]
    return {place for start in starts for place in range(start, start + length)}


def check_passages(found: Overlap, train: str, validation: str) -> None:
    for passage in found.longest:
        in_train = train[passage.train_start :]
        in_validation = validation[passage.validation_start :]
        assert passage.length >= found.min_length
        assert in_train[: passage.length] == in_validation[: passage.length] != ""
        assert in_train[: passage.length + 1] != in_validation[: passage.length + 1] or in_train == in_validation
    assert found.longest == sorted(found.longest, key=lambda passage: -passage.length)


@given(texts, texts, st.integers(1, 9), st.integers(1, 30))
@example("", "", 1, 10)
@example("abcabc", "abc", 3, 1)  # as long as the validation text
@example("abc", "abcabc", 3, 1)  # as long as the training text
@example("abababababababab", "abababababab", 3, 4)
def test_all_passages_are_found_across_chunks(train: str, validation: str, length: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = find_overlap(as_ids(train), as_ids(validation), length, limit=ALL)
    expected = covered(train, validation, length)
    assert found.validation_characters == len(expected)
    check_passages(found, train, validation)
    listed = {s.validation_start + offset for s in found.longest for offset in range(s.length)}
    assert listed == expected


@given(st.permutations(range(60)), st.data(), st.integers(1, 9), st.integers(1, 30))
def test_longest_passage_is_first(train: list[int], data: st.DataObject, length: int, chunk: int) -> None:
    slices = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ends: train[min(ends) : max(ends)])
    validation = list(chain.from_iterable(data.draw(st.lists(slices, min_size=1, max_size=8))))
    lengths = [0]  # of what goes on side by side in both texts, up to each place of the validation text
    for before, here in zip([None, *validation], validation, strict=False):
        goes_on = before is not None and train.index(here) == train.index(before) + 1
        lengths.append(lengths[-1] + 1 if goes_on else 1)
    longest = max(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = find_overlap(np.array(train, np.uint16), np.array(validation, np.uint16), length, limit=1)
    assert [passage.length for passage in found.longest] == [longest] * (longest >= length)


@given(texts, texts, st.integers(2, 9))
def test_hash_collisions_are_dropped(train: str, validation: str, length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MULTIPLIER", 1)  # the hash is the sum: that of every anagram
        found = find_overlap(as_ids(train), as_ids(validation), length, limit=ALL)
    assert found.validation_characters <= len(covered(train, validation, length))
    check_passages(found, train, validation)


def test_anagram_is_not_an_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MULTIPLIER", 1)
    assert find_overlap(as_ids("abcd"), as_ids("dcba"), 4) == Overlap(4, 0, 4, [])


@pytest.mark.parametrize("period", [1, 2, 99, 1000])
def test_periodic_text_is_one_passage(period: int) -> None:
    text = np.resize(np.arange(period, dtype=np.uint16), 200_000)
    found = find_overlap(text, text[:100_000], 100)
    assert (found.validation_characters, len(found.longest)) == (100_000, 1)
    passage = found.longest[0]
    assert (passage.validation_start, passage.train_start % period, passage.length) == (0, 0, 100_000)


@pytest.mark.parametrize("chunk", [1, 40, 2**18])
def test_longest_match_among_several_is_chosen(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    train = "x" * 10 + "y" + "x" * 300 + "z" + "x" * 20
    assert find_overlap(as_ids(train), as_ids("w" + "x" * 250), 10).longest == [Passage(1, 11, 250)]


def test_copied_passage_is_found_whole_and_longest_are_listed() -> None:
    random = np.random.default_rng(0)
    train, validation = random.integers(0, 90, 1_000_000, np.uint8), random.integers(0, 90, 100_000, np.uint8)
    planted = [Passage(5_000, 900_000, 20_000), Passage(0, 999_000, 1_000), Passage(99_850, 0, 150)]
    for passage in [*planted, Passage(60_000, 40_000, 99)]:  # the last is too short to count
        here = slice(passage.validation_start, passage.validation_start + passage.length)
        validation[here] = train[passage.train_start : passage.train_start + passage.length]
        validation[here.stop : here.stop + 1] = 200
        validation[here.start - 1 : here.start] = 200
    assert find_overlap(train, validation, 100) == Overlap(100, 21_150, len(validation), planted)
    assert find_overlap(train, validation, 100, limit=2).longest == planted[:2]


def test_memory_mapped_texts_are_accepted(tmp_path: Path) -> None:
    np.arange(1000, dtype=np.uint32).tofile(tmp_path / "ids")
    ids = np.memmap(tmp_path / "ids", dtype=np.uint32, mode="r")
    assert find_overlap(ids[:900], ids[100:300], 100) == Overlap(100, 200, 200, [Passage(0, 100, 200)])
