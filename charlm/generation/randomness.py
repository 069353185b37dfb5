"""Random numbers for sampling: those of each sample depend only on the seed and its index."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

RANDOM_BLOCK = 256  # random numbers drawn at once per sample


def draw_uniform_blocks(seed: int, indices: Sequence[int]) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of uniform random numbers in [0, 1), ``(step, sample)``."""
    generators = [np.random.Generator(np.random.PCG64(derive_seed(seed, index))) for index in indices]
    while True:
        yield np.stack([generator.random(RANDOM_BLOCK) for generator in generators], axis=1)


def derive_seed(seed: int, index: int) -> int:
    """Derive a seed for each index, decorrelated between neighboring seeds, with SplitMix64 (Steele, Lea and Flood
    2014).
    """
    mask = (1 << 64) - 1
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return (z ^ (z >> 31)) >> 1
