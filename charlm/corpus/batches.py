"""Lanes and windows: how truncated backpropagation through time walks the training text.

Lane b is a contiguous stretch of the text; window t + 1 goes on where window t ended, in every lane. All windows have
numbers, counted through the epochs, so one integer says where training is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.text import Text

IGNORED = -100  # a target that does not count: torch's ignore_index


@dataclass(frozen=True)
class Window:
    """What one forward pass reads. ``inputs`` and ``targets``: ``(time, lane)``."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    starts_over: bool  # the lanes begin again: the state must be zero
    resets: NDArray[np.bool_] | None  # (time, lane): the state must be zero before this step; None: at no step
    characters: int  # targets that count


class Lanes:
    """A text of n ids as ``batch_size`` lanes of ⌈n / batch_size⌉ characters, the last ones padded at their ends.

    Where the text is too short for a whole window a lane, there are fewer lanes.
    """

    def __init__(self, text: Text, batch_size: int, sequence_length: int) -> None:
        assert len(text) >= sequence_length, "corpus.load sees to it"
        self.text = text
        self.sequence_length = sequence_length
        self.batch_size = min(batch_size, len(text) // sequence_length)
        self.lane_length = -(-len(text) // self.batch_size)
        self.windows_per_epoch = -(-self.lane_length // sequence_length)

    def count_targets(self, number: int) -> int:
        """The targets of the window of that number that count: those that lie in the text."""
        first = number % self.windows_per_epoch * self.sequence_length
        last = min(first + self.sequence_length, self.lane_length)
        left = len(self.text) - np.arange(self.batch_size) * self.lane_length  # of the text, from each lane's start
        return int((np.clip(left, 0, last) - np.clip(left, 0, first)).sum())

    def window(self, number: int) -> Window:
        """The window of that number; numbers go on through the epochs."""
        first = number % self.windows_per_epoch * self.sequence_length
        last = min(first + self.sequence_length, self.lane_length)
        # positions in the text of what is read and, one later, of what is to be predicted: (time, lane)
        lane_starts = np.arange(self.batch_size) * self.lane_length
        positions = np.arange(first - 1, last)[:, None] + lane_starts
        here = self.text[np.clip(positions, 0, len(self.text) - 1)]
        inputs = here[:-1]
        targets = np.where(positions[1:] < len(self.text), here[1:], IGNORED)
        resets = self.text.begins(positions[1:])
        if resets is not None:
            inputs = np.where(resets, self.text.vocabulary.start_id, inputs)
        if first == 0:
            inputs[0] = self.text.vocabulary.start_id
        return Window(inputs, targets, first == 0, resets, self.count_targets(number))
