import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.analysis import baselines
from charlm.corpus.encoded_text import Ids
from charlm.corpus.vocabulary import CODE_POINTS, Vocabulary

texts = st.integers(1, 4).flatmap(lambda letters: st.text("abcd"[:letters], max_size=60))


def as_ids(text: str) -> Ids:
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8) - ord("a")


def probability(train: str, context: str, character: str, vocabulary_size: int) -> Fraction:
    """Witten–Bell as its formula reads, with whatever stands in the training text."""
    length = len(context)
    followers = Counter(
        train[place + length] for place in range(len(train) - length) if train[place : place + length] == context
    )
    lower = probability(train, context[1:], character, vocabulary_size) if context else Fraction(1, vocabulary_size)
    if not followers:
        return lower
    return (followers[character] + len(followers) * lower) / Fraction(followers.total() + len(followers))


def reference_bits(train: str, validation: str, vocabulary_size: int, order: int) -> float:
    return -sum(
        math.log2(probability(train, validation[max(0, place - order) : place], character, vocabulary_size))
        for place, character in enumerate(validation)
    ) / len(validation)


@given(texts, texts.filter(bool), st.integers(4, 6))
@example("", "abc", 4)  # nothing to learn from
@example("ab", "dddddddd", 4)  # characters that were not seen
@example("abcdabcdabcd", "ab", 4)  # shorter than the order
@example("aaaaaab", "ab" * 5, 4)  # a context that ends the training text, with nothing after it
@example("aaaaaaaa", "aaaaaaaa", 1)  # an alphabet of one
def test_ngram_bits_match_formula(train: str, validation: str, vocabulary_size: int) -> None:
    bits = baselines.ngram_bits(as_ids(train), as_ids(validation), vocabulary_size, max_order=5)
    by_hand = [reference_bits(train, validation, vocabulary_size, order) for order in range(6)]
    assert bits == pytest.approx(by_hand, abs=1e-9)


@given(st.lists(st.integers(0, CODE_POINTS - 1), max_size=30), st.lists(st.integers(0, CODE_POINTS - 1), min_size=1))
def test_ngram_bits_with_full_unicode_vocabulary(train: list[int], validation: list[int]) -> None:
    # in a vocabulary of 1.1 million the keys are sorted, in one of 5 they are counted: both must give the formula
    distinct = sorted({*train, *validation})
    train_text, validation_text = ("".join(chr(distinct.index(id_)) for id_ in ids) for ids in (train, validation))
    bits = baselines.ngram_bits(np.array(train, np.uint32), np.array(validation, np.uint32), CODE_POINTS, max_order=2)
    by_hand = [reference_bits(train_text, validation_text, CODE_POINTS, order) for order in range(3)]
    assert bits == pytest.approx(by_hand, abs=1e-9)


def test_single_character_text_costs_zero_bits() -> None:
    assert baselines.ngram_bits(np.zeros(9, np.uint8), np.zeros(9, np.uint8), vocabulary_size=1) == [0.0] * 6


def test_xz_bits_of_noise_and_of_repetition() -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    assert baselines.xz_bits(noise[:10_000], noise[10_000:], 10_000) == pytest.approx(8, abs=0.05)
    assert 0 <= baselines.xz_bits(noise, noise[:10_000], 10_000) < 0.5


def test_xz_bits_are_per_character() -> None:
    noise = np.random.default_rng(0).bytes(2_000)
    assert baselines.xz_bits(b"", noise, 1_000) == 2 * baselines.xz_bits(b"", noise, 2_000)


def test_end_of_training_and_start_of_validation_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "MAX_TRAIN_CHARACTERS", 40)
    monkeypatch.setattr(baselines, "MAX_VALIDATION_CHARACTERS", 20)
    train, validation = "é" * 50 + "to be or not to be " * 2 + "\ud800.", "to be, \ud800" * 5
    vocabulary = Vocabulary.from_text(train + validation)
    found = baselines.compute_baselines(vocabulary.encode(train), vocabulary.encode(validation), vocabulary)
    assert (found.train_characters, found.validation_characters) == (40, 20)
    used = vocabulary.encode(train[-40:]), vocabulary.encode(validation[:20])
    assert found.ngram_bits == baselines.ngram_bits(*used, len(vocabulary))
    used_bytes = (text.encode("utf-8", "surrogatepass") for text in (train[-40:], validation[:20]))
    assert found.xz_bits == baselines.xz_bits(*used_bytes, 20)


def test_short_text_is_used_entirely() -> None:
    vocabulary = Vocabulary.from_text("abc")
    found = baselines.compute_baselines(vocabulary.encode("abcabc"), vocabulary.encode("abc"), vocabulary)
    assert (found.train_characters, found.validation_characters) == (6, 3)
