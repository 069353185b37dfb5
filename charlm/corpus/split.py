"""How a text is split for training, validation and testing."""

from dataclasses import dataclass

from charlm.config import CorpusSettings
from charlm.errors import UsageError

MAX_AUTO_VALIDATION = 1_000_000  # characters, if validation_fraction is auto


@dataclass(frozen=True)
class Split:
    """Contiguous half-open ranges of the text, in characters, in this order."""

    train: range
    validation: range
    test: range

    def to_ranges(self) -> dict[str, list[int]]:
        return {name: [positions.start, positions.stop] for name, positions in vars(self).items()}


def make_split(characters: int, settings: CorpusSettings) -> Split:
    """Split a text: the first ``int(n × (1 − v − t))`` characters for training, then validation, then test."""
    validation, test = _fractions(settings)
    train_end = int(characters * (1 - validation - test))
    validation_end = int(characters * (1 - test))
    if settings.validation_fraction == "auto":
        train_end = max(train_end, validation_end - MAX_AUTO_VALIDATION)
    return Split(range(train_end), range(train_end, validation_end), range(validation_end, characters))


def is_long_enough(split: Split, sequence_length: int) -> bool:
    """Whether there is at least one training window and one validation character."""
    return split.train.stop >= sequence_length and split.validation.stop > split.validation.start


def min_length(settings: CorpusSettings, sequence_length: int) -> int:
    """The minimum length of a text, in characters.

    Raises ``UsageError`` if no length works because a fraction is too close to 0 or 1.
    """
    validation, test = _fractions(settings)
    estimate = int(sequence_length / (1 - validation - test))
    for characters in range(max(1, estimate - 2), estimate + 1000):  # rounding may shift it
        if is_long_enough(make_split(characters, settings), sequence_length):
            return characters
    raise UsageError(
        f"validation_fraction {validation:g} and test_fraction {test:g} leave no text for training or validation.",
        "Use a larger validation_fraction, for example 0.01.",
    )


def _fractions(settings: CorpusSettings) -> tuple[float, float]:
    validation = settings.validation_fraction
    return (0.1 if validation == "auto" else validation), settings.test_fraction
