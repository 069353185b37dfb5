"""Matrix products of sampling: right wherever they are used, and passed over where they are not."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from charlm.model import matmul
from charlm.model.matmul import (
    ONEDNN_MIN_WEIGHTS,
    MatMulFactory,
    choose_matmul,
    int7_matmul,
    int8_matmul,
    is_supported,
    numpy_matmul,
    onednn_matmul,
    torch_matmul,
)

ROWS, COLUMNS = 50, 24
CPU = torch.device("cpu")
rounded_products = pytest.mark.parametrize(
    ("make", "steps"),
    [
        pytest.param(make, steps, marks=pytest.mark.skipif(not is_supported(make), reason="not on this machine"))
        for make, steps in ((int8_matmul, 127), (int7_matmul, 63))
    ],
)


@pytest.fixture(autouse=True)
def _fresh_support_check() -> Iterator[None]:
    is_supported.cache_clear()
    yield
    is_supported.cache_clear()


def random_operands(lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(ROWS, COLUMNS), torch.randn(ROWS), torch.rand(lanes, COLUMNS) * 2 - 1


def assert_exact(make: MatMulFactory, weight: Tensor, bias: Tensor, hidden: Tensor) -> None:
    expected = (hidden @ weight.T + bias).numpy()
    np.testing.assert_allclose(make(weight, bias, hidden)(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lanes", [1, 2, 7])
@pytest.mark.parametrize("make", [numpy_matmul, torch_matmul, onednn_matmul])
def test_fp32_matmuls_are_exact_and_read_current_vectors(make: MatMulFactory, lanes: int) -> None:
    if not is_supported(make) and make is onednn_matmul:
        pytest.skip("this machine or torch has no such product")
    if lanes > 1 and make is numpy_matmul:
        pytest.skip("for one lane")
    weight, bias, hidden = random_operands(lanes)
    product = make(weight, bias, hidden)
    for _ in range(2):
        np.testing.assert_allclose(product(), (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-5)
        hidden.neg_()


@pytest.mark.parametrize("unshared", [1, COLUMNS, 7 * COLUMNS, (ROWS - 1) * COLUMNS, ROWS * COLUMNS, 1 << 18])
def test_numpy_matmul_is_exact_for_any_block_size(unshared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "SINGLE_THREAD_MAX_WEIGHTS", unshared)
    assert_exact(numpy_matmul, *random_operands(1))


@rounded_products
@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_quantized_matmul_equals_product_of_rounded_numbers(make: MatMulFactory, steps: int, lanes: int) -> None:
    weight, bias, hidden = random_operands(lanes)
    scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scales).round() * scales
    expected = (hidden * steps).round() / steps @ rounded.T + bias
    np.testing.assert_allclose(make(weight, bias, hidden)(), expected.numpy(), rtol=0, atol=1e-4)


@rounded_products
def test_quantized_zero_row_gives_bias(make: MatMulFactory, steps: int) -> None:
    weight, bias, hidden = random_operands(1)
    weight[3] = 0
    assert make(weight, bias, hidden)()[0, 3] == pytest.approx(bias[3].item(), abs=1e-6)


@rounded_products
def test_quantized_lane_does_not_depend_on_other_lanes(make: MatMulFactory, steps: int) -> None:
    weight, bias, hidden = random_operands(33)
    together = make(weight, bias, hidden)()
    for lanes in (1, 4, 16):
        assert np.array_equal(make(weight, bias, hidden[:lanes].clone())(), together[:lanes])


@rounded_products
def test_quantized_matmul_restores_engine(make: MatMulFactory, steps: int) -> None:
    engine = torch.backends.quantized.engine
    make(*random_operands(1))
    assert torch.backends.quantized.engine == engine


def test_sums_of_int7_fit_in_16_bits() -> None:
    assert 2 * (2 * matmul.INT7_LEVELS) * matmul.INT8_LEVELS < 1 << 15


@pytest.mark.parametrize("lanes", [1, 3])
def test_auto_quantizes_large_matrices_and_fp32_does_not(lanes: int) -> None:
    rounded = [make for make in (int8_matmul, int7_matmul) if is_supported(make)][:1]
    for weights in (matmul.INT8_MIN_WEIGHTS, ONEDNN_MIN_WEIGHTS):
        assert [choose_matmul(weights, lanes, "auto", CPU)] == (rounded or [choose_matmul(weights, lanes, "fp32", CPU)])
        assert choose_matmul(weights, lanes, "fp32", CPU) not in (int8_matmul, int7_matmul)
    fewer = matmul.INT8_MIN_WEIGHTS - 1
    assert choose_matmul(fewer, lanes, "auto", CPU) is choose_matmul(fewer, lanes, "fp32", CPU)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_fallback_without_private_operators(monkeypatch: pytest.MonkeyPatch, lanes: int, precision: str) -> None:
    class Nothing:
        """As ``torch.ops`` looks where an operator is missing."""

    monkeypatch.setattr(torch, "ops", Nothing())
    assert not any(is_supported(make) for make in (int8_matmul, int7_matmul, onednn_matmul))
    make = choose_matmul(ONEDNN_MIN_WEIGHTS, lanes, precision, CPU)
    assert make is (numpy_matmul if lanes == 1 else torch_matmul)
    assert_exact(make, *random_operands(lanes))


def test_saturating_matmul_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As int8 sums do on processors before VNNI: there it is int7."""

    def saturating(weight: Tensor, bias: Tensor, hidden: Tensor) -> matmul.MatMul:
        return lambda: ((hidden @ weight.T).clamp(-40, 40) + bias).numpy()

    def failing(weight: Tensor, bias: Tensor, hidden: Tensor) -> matmul.MatMul:
        raise RuntimeError("not on this machine")

    assert not is_supported(saturating)
    assert not is_supported(failing)
    assert is_supported(torch_matmul)
    monkeypatch.setattr(matmul, "int8_matmul", saturating)
    monkeypatch.setattr(matmul, "int7_matmul", torch_matmul)
    assert choose_matmul(matmul.INT8_MIN_WEIGHTS, 1, "auto", CPU) is torch_matmul
