"""The time to draw the bits of a dropout mask on one thread: with torch's generator, and as charlm does.

    python benchmarks/masks.py

In turns, medians over the rounds, for a window of 64 steps, 32 lanes and 384 units.
"""

import statistics
import time

import torch
from torch import Tensor

from charlm.model.device import configure_torch
from charlm.model.masks import ELEMENTS_PER_WORD, MaskKey, MaskKind

STEPS, LANES, UNITS = 64, 32, 384
ROUNDS = 200
ALL_64_BITS = -(1 << 63)  # the lowest bound of ``Tensor.random_``


def draw_with_generator() -> Tensor:
    return torch.empty(STEPS * LANES * UNITS // ELEMENTS_PER_WORD, dtype=torch.int64).random_(ALL_64_BITS, None)


def draw_by_lane() -> Tensor:
    return MaskKey(1, 0).draw_for_lanes((MaskKind.OUTPUT, 0), STEPS, LANES, UNITS, torch.device("cpu"))


def main() -> None:
    configure_torch(1)
    seconds: dict[str, list[float]] = {"torch's generator": [], "by lane": []}
    for _ in range(ROUNDS):
        for times, draw in zip(seconds.values(), (draw_with_generator, draw_by_lane), strict=True):
            began = time.perf_counter()
            draw()
            times.append(time.perf_counter() - began)
    for name, times in seconds.items():
        print(f"{name:20} {1000 * statistics.median(times):.3f} ms")


if __name__ == "__main__":
    main()
