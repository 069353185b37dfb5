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
    needed = smallest_length(settings, sequence_length)
    if len(text) < needed:
        raise TextError(
            f"{where}: {len(text):,} characters; a window of {sequence_length:,} to train on and something to validate "
            f"on take at least {needed:,}.",
            "Give more text, or a smaller --sequence-length.",
        )
    vocabulary = Vocabulary.of(text)
    if len(vocabulary) == 1:
        raise TextError(f"{where}: only the one character {text[0]!r} over and over.", "There is nothing to learn.")
    return Corpus(name, files, vocabulary, vocabulary.encode(text), divide(len(text), settings))


def divide(characters: int, settings: CorpusSettings) -> Split:
    """The first ``int(n × (1 − v − t))`` characters are for training, then come validation and test."""
    test = settings.test_fraction
    if settings.validation_fraction == "auto":
        validation = min(0.1, VALIDATION_AT_MOST / characters)
    else:
        validation = settings.validation_fraction
    train_end = int(characters * (1 - validation - test))
    validation_end = int(characters * (1 - test))
    return Split(range(train_end), range(train_end, validation_end), range(validation_end, characters))


def smallest_length(settings: CorpusSettings, sequence_length: int) -> int:
    """The fewest characters that leave one window to train on and one character to validate on.

    Raises ``UsageError`` if the validation fraction is 0: without validation no checkpoint is the best.
    """
    if settings.validation_fraction == 0:
        raise UsageError("The validation part is empty: validation_fraction is 0.", "Give it a little: 0.01, say.")
    characters = sequence_length
    while True:
        split = divide(characters, settings)
        if len(split.train) >= sequence_length and len(split.validation):
            return characters
        characters += 1
