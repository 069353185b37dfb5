"""The rule for settings that are ``auto``: what suits a training text of a given size.

Small texts get small models and much dropout, because they are soon memorized; large texts get as much as is learned in
the same time. The numbers depend on the size of the training text alone, so they are the same on every machine.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

AUTO = "auto"
TYPICAL_CHARACTERS = 1_000_000  # for what is chosen without a text, as for a benchmark


@dataclass(frozen=True)
class _Row:
    """The fields are the settings that can be ``auto``."""

    hidden_size: int
    num_layers: int
    dropout: float
    max_steps: int


TABLE: Mapping[int, _Row] = {  # by the characters of the training text from which a row holds
    0: _Row(hidden_size=128, num_layers=1, dropout=0.3, max_steps=1600),
    200_000: _Row(hidden_size=256, num_layers=2, dropout=0.3, max_steps=2400),
    700_000: _Row(hidden_size=384, num_layers=2, dropout=0.2, max_steps=3200),
    3_000_000: _Row(hidden_size=384, num_layers=2, dropout=0.1, max_steps=4000),
}
AUTOMATIC_SETTINGS = tuple(_Row.__dataclass_fields__)


def choose_automatic(training_characters: int) -> dict[str, Any]:
    """The values of all settings that can be ``auto``, for a training text of this size."""
    return asdict(TABLE[max(start for start in TABLE if start <= training_characters)])
