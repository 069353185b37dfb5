"""Baselines: bits per character of n-gram models and of xz on the same validation text.

The loss of a neural model says little by itself. Compared with these, it shows whether the model has learned more than
short-range character statistics (n-grams) and literal repetition (xz).
"""

import lzma
from dataclasses import dataclass

import numpy as np

from charlm.corpus.analysis.sorted_index import IntArray, find_sorted
from charlm.corpus.encoded_text import Ids
from charlm.corpus.vocabulary import Vocabulary

MAX_ORDER = 5
MAX_TRAIN_CHARACTERS = 10_000_000  # characters: half a minute and a gigabyte of memory
MAX_VALIDATION_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Baselines:
    """Bits per validation character; ``ngram_bits[k]`` is that of k characters of context."""

    train_characters: int  # how many were used
    validation_characters: int
    ngram_bits: list[float]
    xz_bits: float


def compute_baselines(train: Ids, validation: Ids, vocabulary: Vocabulary) -> Baselines:
    """Compute the baselines on the start of the validation text, from the end of the training text."""
    train = train[-MAX_TRAIN_CHARACTERS:]
    validation = validation[:MAX_VALIDATION_CHARACTERS]
    ngrams = ngram_bits(train, validation, len(vocabulary))
    xz = xz_bits(vocabulary.to_bytes(train), vocabulary.to_bytes(validation), len(validation))
    return Baselines(len(train), len(validation), ngrams, xz)


def ngram_bits(train: Ids, validation: Ids, vocabulary_size: int, max_order: int = MAX_ORDER) -> list[float]:
    """The mean −log₂ p of a validation character under interpolated Witten–Bell models of the orders 0, 1, ….

    The order is the number of characters of context h, and h′ is h without its first:

        pₖ(c|h) = (n(h, c) + t(h) pₖ₋₁(c|h′)) / (n(h) + t(h))

    where n counts in the training text, t(h) is how many different characters follow h there, and p₋₁ is uniform over
    the vocabulary. A context that nothing follows there leaves pₖ = pₖ₋₁. So does a missing one: every text stands for
    itself, hence the first character has no context, the second has one character, and so on, and all are counted.

    Witten and Bell, The Zero-Frequency Problem, 1991 (method C); interpolated as in Chen and Goodman, An Empirical
    Study of Smoothing Techniques for Language Modeling, 1999.
    """
    probability = np.full(len(validation), 1 / vocabulary_size)
    # What stands before the characters order, order + 1, … of a text: the number of the context among the `contexts`
    # different ones of the training text, −1 where it is not among them
    before_train = np.zeros(len(train), dtype=np.int64)
    before_validation = np.zeros(len(validation), dtype=np.int64)
    contexts = 1
    bits = []
    for order in range(max_order + 1):
        # A gram is a context and the character after it. Context numbers are below 10⁷, so keys fit 64 bits by far
        keys = before_train * vocabulary_size + train[order:]
        grams, train_grams, gram_counts = _unique_counts(keys, contexts * vocabulary_size)
        context_of_gram = grams // vocabulary_size
        # One row more, with nothing in it, is where −1 points. At least one follower: 0/0 becomes pₖ = pₖ₋₁
        context_counts = np.bincount(context_of_gram, weights=gram_counts, minlength=contexts + 1)
        followers = np.maximum(np.bincount(context_of_gram, minlength=contexts + 1), 1)
        validation_grams = find_sorted(grams, before_validation * vocabulary_size + validation[order:])

        lower = probability[order:]
        counts = np.append(gram_counts, 0)[validation_grams]
        t = followers[before_validation]
        lower[:] = (counts + t * lower) / (context_counts[before_validation] + t)
        bits.append(float(-np.log2(probability).mean()))

        before_train, before_validation, contexts = train_grams[:-1], validation_grams[:-1], len(grams)
    return bits


def _unique_counts(keys: IntArray, below: int) -> tuple[IntArray, IntArray, IntArray]:
    """The different ones of keys in [0, below), ascending; where each key is among them; how often each occurs."""
    if below > 4 * len(keys):
        return np.unique(keys, return_inverse=True, return_counts=True)
    # Low orders have few possible keys: counting them is many times faster than sorting
    counts = np.bincount(keys, minlength=below)
    distinct = np.flatnonzero(counts)
    return distinct, np.cumsum(counts > 0)[keys] - 1, counts[distinct]


def xz_bits(train: bytes, validation: bytes, characters: int) -> float:
    """The bits per character that a validation text adds to the xz of the training text before it."""
    return (_xz_size(train + validation) - _xz_size(train)) * 8 / characters


def _xz_size(data: bytes) -> int:
    # Preset 9 for its dictionary of 64 MiB: it holds MAX_TRAIN_CHARACTERS, however long their UTF-8 is
    return len(lzma.compress(data, preset=9))
