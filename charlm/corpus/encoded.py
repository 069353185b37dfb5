"""The corpus as an array of ids, with its vocabulary, its ranges and the record that a resume is checked against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import CorpusSettings
from charlm.corpus import sources
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError

Ids = NDArray[np.integer[Any]]

VALIDATION_AT_MOST = 1_000_000  # characters, where the fraction is left to us
MOST_CHARACTERS = 10**12  # more than any text has


@dataclass(frozen=True)
class Split:
    """Contiguous ranges of the text, in this order; half-open, in characters."""

    train: range
    validation: range
    test: range

    def record(self) -> dict[str, list[int]]:
        return {name: [part.start, part.stop] for name, part in vars(self).items()}


@dataclass(frozen=True)
class Corpus:
    name: str
    files: list[sources.Source]
    vocabulary: Vocabulary
    ids: Ids
    split: Split

    def part(self, part: range) -> Ids:
        return self.ids[part.start : part.stop]

    def only_outside_training(self) -> int:
        """How many characters of the vocabulary the training text lacks."""
        return len(self.vocabulary) - len(np.unique(self.part(self.split.train)))

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "characters": len(self.ids),
            "distinct_characters": len(self.vocabulary),
            "files": [source.record() for source in self.files],
            "ranges": self.split.record(),
        }


def load(names: Sequence[str], settings: CorpusSettings, sequence_length: int) -> Corpus:
    """Read, encode and divide a corpus that has at least one window of ``sequence_length`` to train on.

    Raises ``UsageError`` or ``TextError`` where a file cannot be read or the text is too little to learn from.
    """
    name, paths = sources.find(names)
    text, files = sources.read(paths, settings.encoding)
    where = str(paths[0]) if len(paths) == 1 else f"these {len(paths)} files"
    if not text:
        raise TextError(f"{where}: empty.", "Give a text with something in it.")
    split = divide(len(text), settings)
    if not is_enough(split, sequence_length):
        needed = smallest_length(settings, sequence_length)
        raise TextError(
            f"{where}: {len(text):,} characters; a window of {sequence_length:,} to train on and something to validate "
            f"on take at least {needed:,}.",
            "Give more text, or a smaller --sequence-length.",
        )
    vocabulary = Vocabulary.of(text)
    if len(vocabulary) == 1:
        raise TextError(f"{where}: only the one character {text[0]!r} over and over.", "There is nothing to learn.")
    return Corpus(name, files, vocabulary, vocabulary.encode(text), split)


def divide(characters: int, settings: CorpusSettings) -> Split:
    """The first ``int(n × (1 − v − t))`` characters are for training, then come validation and test."""
    validation, test = _fractions(settings)
    train_end = int(characters * (1 - validation - test))
    validation_end = int(characters * (1 - test))
    if settings.validation_fraction == "auto":
        train_end = max(train_end, validation_end - VALIDATION_AT_MOST)
    return Split(range(train_end), range(train_end, validation_end), range(validation_end, characters))


def is_enough(split: Split, sequence_length: int) -> bool:
    """Whether there is one window to train on, and one character to validate on."""
    return len(split.train) >= sequence_length and len(split.validation) > 0


def smallest_length(settings: CorpusSettings, sequence_length: int) -> int:
    """The fewest characters that are enough.

    Raises ``UsageError`` if none are: without validation no checkpoint would be the best.
    """
    validation, test = _fractions(settings)
    if validation > 1 / MOST_CHARACTERS and 1 - validation - test > 1 / MOST_CHARACTERS:
        about = int(sequence_length / (1 - validation - test))
        for characters in range(max(1, about - 2), about + 1000):  # rounding may shift it
            if is_enough(divide(characters, settings), sequence_length):
                return characters
    raise UsageError(
        f"validation_fraction {validation:g} and test_fraction {test:g} leave no text to train or to validate on.",
        "Give validation a little: 0.01, say.",
    )


def _fractions(settings: CorpusSettings) -> tuple[float, float]:
    validation = settings.validation_fraction
    return (0.1 if validation == "auto" else validation), settings.test_fraction
