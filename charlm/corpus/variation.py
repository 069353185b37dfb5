"""Variation of the windows of training: their lengths, and states that are reset.

Each is a function of the seed and the number of a window alone, so that any window can be read at any time.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """Different random numbers of the same window. The numbers are part of what a run computes."""

    LENGTH = 0
    RESETS = 1


@dataclass(frozen=True)
class Variation:
    """``length``: by what fraction a window may be longer or shorter, at most.

    ``reset_probability``: of each lane, at the start of each window. So the model also learns to begin with a zero
    state (Melis, Kočiský and Blunsom 2020; ``drop_state_probability`` in their code), here from the start token.
    """

    seed: int = 0
    length: float = 0.0
    reset_probability: float = 0.0

    def shift(self, window: int, sequence_length: int) -> int:
        """By how many characters the start of a window is moved, back or forward."""
        most = int(self.length * sequence_length / 2)
        return int(self._draw(Stream.LENGTH, window, 1)[0] % (2 * most + 1)) - most if most else 0

    def reset_lanes(self, window: int, lanes: int) -> NDArray[np.bool_] | None:
        """The lanes whose state is reset before a window, ``(lane,)``; ``None``: no lane."""
        if not self.reset_probability:
            return None
        is_reset = self._draw(Stream.RESETS, window, lanes) < self.reset_probability * 2**64
        return is_reset if is_reset.any() else None

    def _draw(self, stream: Stream, window: int, count: int) -> NDArray[np.uint64]:
        """Numpy promises that a SeedSequence gives the same numbers in every version."""
        sequence = np.random.SeedSequence((self.seed, window, stream))
        return np.asarray(sequence.generate_state(count, np.uint64), dtype=np.uint64)


NO_VARIATION = Variation()
