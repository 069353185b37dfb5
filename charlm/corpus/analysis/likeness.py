"""Compare the validation split with the training split. The end of a sorted list, unlike that of most texts, differs
from the rest: its validation loss measures text of a kind that the model was not trained on.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from charlm.config import CorpusSettings
from charlm.corpus.analysis.baselines import ngram_bits
from charlm.corpus.encoded_text import Ids
from charlm.corpus.loading import Corpus

STRETCHES = 16  # in the middle of as many parts of the training text, so that what they are like is left in it
MAX_TRAIN_CHARACTERS = 2_000_000  # characters: some tenths of a second
MAX_VALIDATION_CHARACTERS = 200_000
UNLIKE_ABOVE = 1.1


@dataclass(frozen=True)
class Likeness:
    """Bits per character under a bigram model of the training text without what was held out of it."""

    validation: float
    held_out: float  # of as many characters of the training text

    @property
    def is_unlike(self) -> bool:
        return self.validation > UNLIKE_ABOVE * self.held_out


def compare_splits(train: Ids, validation: Ids, alphabet_size: int) -> Likeness | None:
    """Returns ``None`` if there is too little text."""
    validation = validation[:MAX_VALIDATION_CHARACTERS]
    stretch = min(len(validation), len(train) // 4) // STRETCHES
    if stretch < 16:
        return None
    margin = MAX_TRAIN_CHARACTERS // STRETCHES // 2  # characters on each side
    remaining, held_out = [], []
    edges = np.linspace(0, len(train), STRETCHES + 1, dtype=np.int64).tolist()
    for first, last in itertools.pairwise(edges):
        start = (first + last - stretch) // 2
        stop = start + stretch
        remaining += [train[max(first, start - margin) : start], train[stop : min(last, stop + margin)]]
        held_out.append(train[start:stop])
    training = np.concatenate(remaining)
    bits = [ngram_bits(training, text, alphabet_size, 1)[1] for text in (validation, np.concatenate(held_out))]
    return Likeness(*bits)


def advise_shuffling(corpus: Corpus, settings: CorpusSettings) -> str | None:
    """Advice to shuffle if the splits differ, or ``None``."""
    ids, split = corpus.encoded.ids, corpus.split
    if settings.shuffle_documents:
        return None
    train, validation = (ids[part.start : part.stop] for part in (split.train, split.validation))
    found = compare_splits(train, validation, len(corpus.encoded.alphabet))
    if found is None or not found.is_unlike:
        return None
    if len(corpus.text.document_starts):
        how = "To shuffle the documents before the split: --shuffle-documents"
    else:
        how = 'If the lines are independent: --document-separator "\\n" --shuffle-documents'
    return (
        f"The validation split is unlike the training split: {found.validation:.2f} bits per {settings.unit} under a "
        f"bigram model, {found.held_out:.2f} for other training text. {how}."
    )
