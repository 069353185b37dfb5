"""Random bits for dropout masks: a function of seed, window, place and lane, and of nothing that was drawn before.

So a lane has the same masks wherever it is trained, after a resume too, and a checkpoint stores no generator.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.device import to_device

ELEMENTS_PER_WORD = 4  # 64 bits give 16 to each element
GAMMA = -0x61C8864680B583EB  # 2⁶⁴ divided by the golden ratio: the step from one counter to the next
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
SHIFTS = (30, 27, 31)
CHUNK = 1 << 14  # words that stay in the cache of a processor core


Place = tuple["MaskKind", int]  # what is masked, and in which layer


class MaskKind(IntEnum):
    """What is masked: different masks of a window are independent. The numbers are part of what a run computes."""

    OUTPUT = 0  # of a layer
    INPUT = 1  # of the first layer
    WEIGHT = 2  # recurrent, of a layer
    EMBEDDING = 3  # rows of it


@dataclass(frozen=True)
class MaskKey:
    """What the masks of one window depend on. ``first_lane``: the number of this process's first lane."""

    seed: int
    window: int
    first_lane: int = 0

    @classmethod
    def random(cls) -> "MaskKey":
        """A key drawn from torch's generator, for a window that has no number."""
        return cls(int(torch.randint(1 << 62, ())), 0)

    def draw_for_lanes(
        self,
        place: Place,
        steps: int,
        lanes: int,
        size: int,
        device: torch.device,
        rows: Tensor | None = None,
    ) -> Tensor:
        """16 random bits for each element, as int16: ``(step, lane, size)``.

        ``rows``: these rows of ``(step × lane, size)``.
        """
        keys = self._derive_keys(place, self.first_lane + lanes)[self.first_lane :]
        return _draw_bits(keys, steps, size, device, rows)

    def draw(self, place: Place, size: int, device: torch.device) -> Tensor:
        """The same for a mask that all lanes share, such as one of weights: ``(size,)``."""
        return _draw_bits(self._derive_keys(place, 1), 1, size, device).view(size)

    def _derive_keys(self, place: Place, count: int) -> NDArray[np.uint64]:
        return np.random.SeedSequence((self.seed, self.window, *place)).generate_state(2 * count).view(np.uint64)


def _draw_bits(
    keys: NDArray[np.uint64], steps: int, size: int, device: torch.device, rows: Tensor | None = None
) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood 2014): each lane's words are the hashes of a counter that starts at its key."""
    drawn_on = device if device.type == "cuda" else torch.device("cpu")
    lane_keys = to_device(keys.view(np.int64), drawn_on)
    words_per_row = -(-size // ELEMENTS_PER_WORD)
    first = torch.arange(0, steps * words_per_row, max(1, words_per_row), device=drawn_on).mul_(GAMMA)  # of each step
    starts = first[:, None] + lane_keys
    if rows is not None:
        starts = starts.flatten()[rows.to(drawn_on)]
    words = starts[..., None] + torch.arange(words_per_row, device=drawn_on).mul_(GAMMA)
    mixed = mix_on_cpu(words) if drawn_on.type == "cpu" else mix_on_gpu(words)
    return mixed.view(torch.int16)[..., :size].to(device)


def mix_on_cpu(words: Tensor) -> Tensor:
    """SplitMix64's hash, in place. numpy multiplies 64-bit integers faster than torch does."""
    all_values = words.numpy().view(np.uint64).reshape(-1)
    scratch = np.empty(CHUNK, np.uint64)
    for first in range(0, len(all_values), CHUNK):
        values = all_values[first : first + CHUNK]
        shifted = scratch[: len(values)]
        for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, None), strict=True):
            np.right_shift(values, np.uint64(shift), out=shifted)
            values ^= shifted
            if multiplier is not None:
                values *= np.uint64(multiplier % (1 << 64))
    return words


def mix_on_gpu(words: Tensor) -> Tensor:
    """The same with torch, on any device. Its integers are signed, so the sign's copies are removed after a shift."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, None), strict=True):
        words ^= (words >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if multiplier is not None:
            words *= multiplier
    return words
