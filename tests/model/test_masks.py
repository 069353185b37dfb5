"""Random bits of masks: the published algorithm, and what they depend on."""

import math

import numpy as np
import pytest
import torch

from charlm.model.masks import GAMMA, MaskKey, MaskKind, Place, mix_on_cpu, mix_on_gpu

CPU = torch.device("cpu")
STEPS, LANES, SIZE = 5, 6, 10
OUTPUT: Place = (MaskKind.OUTPUT, 0)
KEY = MaskKey(seed=7, window=3)


def draw(key: MaskKey = KEY, place: Place = OUTPUT, lanes: int = LANES) -> torch.Tensor:
    return key.draw_for_lanes(place, STEPS, lanes, SIZE, CPU)


@pytest.mark.parametrize("mix", [mix_on_cpu, mix_on_gpu])
def test_hash_is_splitmix64(mix: object) -> None:
    """The first numbers from the seed 1234567, as in other implementations."""
    words = 1234567 + torch.arange(1, 6) * GAMMA
    assert callable(mix)
    assert mix(words).numpy().view(np.uint64).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_processor_and_gpu_draw_the_same_bits() -> None:
    words = torch.empty(10_000, dtype=torch.int64).random_(-(1 << 63), None)
    assert torch.equal(mix_on_cpu(words.clone()), mix_on_gpu(words.clone()))


def test_lanes_keep_their_bits_when_they_are_divided() -> None:
    whole = draw()
    assert whole.shape == (STEPS, LANES, SIZE)
    for first in range(LANES):
        part = draw(MaskKey(7, 3, first_lane=first), lanes=LANES - first)
        assert torch.equal(part, whole[:, first:])


def test_rows_are_those_of_the_window() -> None:
    rows = torch.randperm(STEPS * LANES)
    drawn = KEY.draw_for_lanes(OUTPUT, STEPS, LANES, SIZE, CPU, rows)
    assert torch.equal(drawn, draw().flatten(0, 1)[rows])


def test_bits_depend_on_seed_window_layer_and_lane_alone() -> None:
    keys = [KEY, MaskKey(8, 3), MaskKey(7, 4), MaskKey(3, 7), MaskKey(2**62 + 7, 3), MaskKey(7, 3 + 2**32)]
    drawn = [draw(key) for key in keys] + [draw(place=(MaskKind.OUTPUT, 1)), draw(MaskKey(7, 3, first_lane=1))]
    assert torch.equal(drawn[0], draw())
    for number, first in enumerate(drawn):
        for second in drawn[:number]:
            assert (first == second).float().mean() < 0.05


def test_bits_that_lanes_share_are_one_mask() -> None:
    shared = MaskKey(7, 3, first_lane=2).draw(OUTPUT, 33, CPU)
    assert shared.shape == (33,)
    assert torch.equal(shared, KEY.draw(OUTPUT, 33, CPU))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_neighbors_are_independent(dim: int) -> None:
    """Windows, steps, lanes and elements: the bits of one tell nothing about those of the next."""
    windows = [MaskKey(1, number).draw_for_lanes(OUTPUT, 16, 16, 256, CPU) for number in range(16)]
    kept = (torch.stack(windows) < 0).double() - 0.5
    length = kept.shape[dim]
    products = kept.narrow(dim, 0, length - 1) * kept.narrow(dim, 1, length - 1)
    assert abs(products.mean().item()) < 4 * 0.25 / math.sqrt(products.numel())
