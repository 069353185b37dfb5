"""Dropout: how often it drops, what it keeps, and what its masks depend on."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from charlm.model.masks import MaskKey, MaskKind
from charlm.model.regularization import LEVELS, Dropout, EmbeddingDropout, Regularizer, WeightDropout

MANY = 1 << 20
PROBABILITIES = (0.1, 0.2, 0.5, 0.9)


def mask_of(dropout: Dropout, size: int) -> Tensor:
    """Which elements are kept, as numbers of 0 and 1."""
    return (dropout(torch.ones(size)) != 0).double()


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("p", PROBABILITIES)
def test_drop_rate_at_each_position_in_word(p: float, position: int) -> None:
    drawn = mask_of(Dropout(p), 4 * MANY)[position::4]
    deviation = math.sqrt(p * (1 - p) / MANY)
    assert drawn.mean().item() == pytest.approx(1 - p, abs=4 * deviation)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8])
def test_mask_elements_are_independent(distance: int) -> None:
    kept = mask_of(Dropout(0.5), MANY) - 0.5
    covariance = (kept[distance:] * kept[:-distance]).mean().item()
    assert abs(covariance) < 4 * 0.25 / math.sqrt(MANY)


def test_kept_count_is_binomial() -> None:
    p, size, groups = 0.3, 1000, 4000
    kept = mask_of(Dropout(p), size * groups).view(groups, size).sum(1)
    statistic = ((kept - size * (1 - p)) ** 2 / (size * p * (1 - p))).sum().item()  # chi-square of ``groups`` degrees
    assert abs(statistic - groups) < 4 * math.sqrt(2 * groups)


@given(st.floats(0, 1, exclude_max=True))
def test_scale_matches_probability_within_1_over_65536(p: float) -> None:
    kept = Dropout(p)(torch.ones(999, dtype=torch.float64)).max().item()
    if kept:  # with a high probability of dropping, all may be dropped
        assert abs(1 / kept - (1 - p)) < 1 / LEVELS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [*PROBABILITIES, 0.3])
def test_mean_is_preserved(p: float, dtype: torch.dtype) -> None:
    inputs = (torch.rand(MANY) + 0.5).to(dtype)
    deviation = math.sqrt(p / (1 - p) * (inputs.double() ** 2).mean().item() / MANY)
    assert Dropout(p)(inputs).double().mean().item() == pytest.approx(inputs.double().mean().item(), abs=4 * deviation)


def test_in_bf16_each_kept_element_is_the_rounded_exact_product() -> None:
    inputs = torch.randn(1000).bfloat16()
    outputs = Dropout(0.3)(inputs)
    kept = outputs != 0
    exact = inputs[kept].float() * (LEVELS / round(0.7 * LEVELS))
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(outputs[kept], exact.bfloat16())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 4095, 4096])
def test_any_number_of_elements_is_masked(size: int) -> None:
    dropout = Dropout(0.5)
    dropped_and_kept = {bool(dropout(torch.ones(size))[-1]) for _ in range(40)}
    assert dropped_and_kept == {False, True}


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5, 7), (11, 3, 8)])
def test_shape_is_preserved(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.randn(shape)).shape == shape


def test_noncontiguous_inputs_are_masked() -> None:
    inputs = torch.randn(6, 9).T
    outputs = Dropout(0.5)(inputs)
    kept = outputs != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(outputs[kept], inputs[kept] * 2)


def test_inputs_are_not_modified() -> None:
    inputs = torch.ones(100)
    Dropout(0.5)(inputs)
    assert inputs.eq(1).all()


def test_generator_state_determines_mask() -> None:
    dropout = Dropout(0.5)
    state = torch.get_rng_state()
    first, second = mask_of(dropout, 1001), mask_of(dropout, 1001)
    torch.set_rng_state(state)
    assert torch.equal(mask_of(dropout, 1001), first)
    assert torch.equal(mask_of(dropout, 1001), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_scaled_mask(dtype: torch.dtype) -> None:
    inputs = torch.randn(301, 7).to(dtype).requires_grad_()
    upstream = torch.randn(301, 7).to(dtype)
    outputs = Dropout(0.2)(inputs)
    (gradient,) = torch.autograd.grad(outputs, inputs, upstream)
    scale = LEVELS / round(0.8 * LEVELS)
    assert torch.equal(outputs, torch.where(outputs != 0, inputs * scale, 0))
    assert torch.equal(gradient, torch.where(outputs != 0, upstream * scale, 0))


@pytest.mark.parametrize("dropout", [Dropout(0.0).train(), Dropout(0.5).eval()], ids=["p = 0", "evaluating"])
def test_zero_dropout_returns_inputs_without_random_numbers(dropout: Dropout) -> None:
    inputs, state = torch.randn(10), torch.get_rng_state()
    assert dropout(inputs) is inputs
    assert torch.equal(torch.get_rng_state(), state)


def test_tiny_probability_keeps_everything() -> None:
    inputs = torch.randn(1000)
    assert torch.equal(Dropout(1e-6)(inputs), inputs)


def test_probability_near_one_keeps_some() -> None:
    outputs = Dropout(1 - 1e-9)(torch.ones(8 * MANY))
    assert set(outputs.unique().tolist()) == {0.0, float(LEVELS)}


def test_other_devices_are_masked_too() -> None:
    inputs = torch.ones(3, 5, device="meta")
    outputs = Dropout(0.5)(inputs)
    assert outputs.device.type == "meta"
    assert outputs.shape == (3, 5)


def test_dropout_has_no_state_and_can_be_copied() -> None:
    stack = nn.Sequential(Dropout(0.5))
    assert not stack.state_dict()
    copied = copy.deepcopy(stack).train()
    copied[0].eval()
    inputs = torch.ones(100)
    assert copied(inputs) is inputs
    assert not torch.equal(stack(inputs), inputs)


KEY = MaskKey(seed=5, window=2)


def locked(window: int = 2, layer: int = 0, kind: MaskKind = MaskKind.OUTPUT, first_lane: int = 0) -> Tensor:
    """Which elements of a window of 7 steps and 3 lanes are kept, as numbers of 0 and 2."""
    dropout = Dropout(0.5, kind, locked=True)
    outputs: Tensor = dropout(torch.ones(7, 3, 100), MaskKey(5, window, first_lane), layer, lanes=3)
    return outputs


def test_locked_mask_is_the_same_at_every_step_and_different_elsewhere() -> None:
    mask = locked()
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(mask, mask[:1].expand(7, 3, 100))
    assert not torch.equal(mask[0, 0], mask[0, 1])
    for other in (locked(window=3), locked(layer=1), locked(kind=MaskKind.INPUT)):
        assert not torch.equal(mask[0, 0], other[0, 0])
    assert torch.equal(locked(first_lane=1)[:, 0], mask[:, 1])


def test_locked_mask_of_rows_is_that_of_their_lanes() -> None:
    rows = torch.tensor([4, 0, 20, 7])
    inputs = torch.randn(21, 100)
    whole = Dropout(0.5, locked=True)(inputs.view(7, 3, 100), KEY, lanes=3)
    assert torch.equal(Dropout(0.5, locked=True)(inputs[rows], KEY, lanes=3, rows=rows), whole.view(21, 100)[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_locked_gradient_is_scaled_mask(dtype: torch.dtype) -> None:
    inputs = torch.randn(7, 3, 10).to(dtype).requires_grad_()
    upstream = torch.randn(7, 3, 10).to(dtype)
    outputs = Dropout(0.2, locked=True)(inputs, KEY, lanes=3)
    (gradient,) = torch.autograd.grad(outputs, inputs, upstream)
    scale = LEVELS / round(0.8 * LEVELS)
    assert outputs.dtype == gradient.dtype == dtype
    assert torch.equal(outputs, torch.where(outputs != 0, inputs * scale, 0))
    assert torch.equal(gradient, torch.where(outputs != 0, upstream * scale, 0))


def test_locked_mask_without_key_is_drawn_from_the_generator() -> None:
    dropout, inputs = Dropout(0.5, locked=True), torch.ones(7, 3, 100)
    first, second = dropout(inputs, lanes=3), dropout(inputs, lanes=3)
    assert not torch.equal(first, second)
    assert torch.equal(first, first[:1].expand_as(first))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_drop_rate_of_weights_and_characters(p: float) -> None:
    weights = WeightDropout(p)(torch.ones(400, 500), KEY)
    characters = EmbeddingDropout(p)(torch.ones(50_000, 3), KEY)
    assert torch.equal(characters, characters[:, :1].expand(-1, 3))
    for kept in (weights.flatten(), characters[:, 0]):
        deviation = math.sqrt(p * (1 - p) / len(kept))
        assert (kept != 0).double().mean().item() == pytest.approx(1 - p, abs=4 * deviation)
        assert kept.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)


@pytest.mark.parametrize("kind", [Dropout, WeightDropout, EmbeddingDropout])
def test_nothing_is_dropped_in_evaluation_or_with_probability_zero(kind: type[Regularizer]) -> None:
    inputs = torch.randn(4, 5)
    assert kind(0.5).eval()(inputs, KEY) is inputs
    assert kind(0.0).train()(inputs, KEY) is inputs
