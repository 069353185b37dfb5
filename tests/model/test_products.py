"""Matrix products of sampling: right wherever they are used, and passed over where they are not."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from charlm.model import products
from charlm.model.products import (
    ONEDNN_FROM,
    MakeProduct,
    choose_product,
    int7_product,
    int8_product,
    numpy_product,
    onednn_product,
    torch_product,
    works,
)

ROWS, COLUMNS = 50, 24
CPU = torch.device("cpu")
rounded_products = pytest.mark.parametrize(
    ("make", "steps"),
    [
        pytest.param(make, steps, marks=pytest.mark.skipif(not works(make), reason="not on this machine"))
        for make, steps in ((int8_product, 127), (int7_product, 63))
    ],
)


@pytest.fixture(autouse=True)
def _checked_anew() -> Iterator[None]:
    works.cache_clear()
    yield
    works.cache_clear()


def some(lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(ROWS, COLUMNS), torch.randn(ROWS), torch.rand(lanes, COLUMNS) * 2 - 1


def assert_exact(make: MakeProduct, weight: Tensor, bias: Tensor, hidden: Tensor) -> None:
    expected = (hidden @ weight.T + bias).numpy()
    np.testing.assert_allclose(make(weight, bias, hidden)(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lanes", [1, 2, 7])
@pytest.mark.parametrize("make", [numpy_product, torch_product, onednn_product])
def test_fp32_is_exact_and_reads_what_the_vectors_hold_now(make: MakeProduct, lanes: int) -> None:
    if not works(make) and make is onednn_product:
        pytest.skip("this machine or torch has no such product")
    if lanes > 1 and make is numpy_product:
        pytest.skip("for one lane")
    weight, bias, hidden = some(lanes)
    product = make(weight, bias, hidden)
    for _ in range(2):
        np.testing.assert_allclose(product(), (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-5)
        hidden.neg_()


@pytest.mark.parametrize("unshared", [1, COLUMNS, 7 * COLUMNS, (ROWS - 1) * COLUMNS, ROWS * COLUMNS, 1 << 18])
def test_numpys_product_is_exact_in_blocks_of_any_size(unshared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "UNSHARED", unshared)
    assert_exact(numpy_product, *some(1))


@rounded_products
@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_a_rounded_product_is_that_of_the_rounded_numbers(make: MakeProduct, steps: int, lanes: int) -> None:
    weight, bias, hidden = some(lanes)
    scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scales).round() * scales
    expected = (hidden * steps).round() / steps @ rounded.T + bias
    np.testing.assert_allclose(make(weight, bias, hidden)(), expected.numpy(), rtol=0, atol=1e-4)


@rounded_products
def test_a_rounded_product_of_a_row_of_zeros_is_its_bias(make: MakeProduct, steps: int) -> None:
    weight, bias, hidden = some(1)
    weight[3] = 0
    assert make(weight, bias, hidden)()[0, 3] == pytest.approx(bias[3].item(), abs=1e-6)


@rounded_products
def test_a_rounded_product_gives_a_lane_the_same_bits_beside_any_number_of_others(
    make: MakeProduct, steps: int
) -> None:
    weight, bias, hidden = some(33)
    together = make(weight, bias, hidden)()
    for lanes in (1, 4, 16):
        assert np.array_equal(make(weight, bias, hidden[:lanes].clone())(), together[:lanes])


@rounded_products
def test_a_rounded_product_leaves_the_engine_as_it_was(make: MakeProduct, steps: int) -> None:
    engine = torch.backends.quantized.engine
    make(*some(1))
    assert torch.backends.quantized.engine == engine


def test_sums_of_int7_fit_in_16_bits() -> None:
    assert 2 * (2 * products.FEWER_STEPS) * products.STEPS < 1 << 15


@pytest.mark.parametrize("lanes", [1, 3])
def test_auto_rounds_large_matrices_and_fp32_none(lanes: int) -> None:
    rounded = [make for make in (int8_product, int7_product) if works(make)][:1]
    for weights in (products.INT8_FROM, ONEDNN_FROM):
        assert [choose_product(weights, lanes, "auto", CPU)] == (
            rounded or [choose_product(weights, lanes, "fp32", CPU)]
        )
        assert choose_product(weights, lanes, "fp32", CPU) not in (int8_product, int7_product)
    fewer = products.INT8_FROM - 1
    assert choose_product(fewer, lanes, "auto", CPU) is choose_product(fewer, lanes, "fp32", CPU)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_without_private_operators_there_is_a_product(
    monkeypatch: pytest.MonkeyPatch, lanes: int, precision: str
) -> None:
    class Nothing:
        """As ``torch.ops`` looks where an operator is missing."""

    monkeypatch.setattr(torch, "ops", Nothing())
    assert not any(works(make) for make in (int8_product, int7_product, onednn_product))
    make = choose_product(ONEDNN_FROM, lanes, precision, CPU)
    assert make is (numpy_product if lanes == 1 else torch_product)
    assert_exact(make, *some(lanes))


def test_a_product_that_saturates_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As int8 sums do on processors before VNNI: there it is int7."""

    def saturating(weight: Tensor, bias: Tensor, hidden: Tensor) -> products.Product:
        return lambda: ((hidden @ weight.T).clamp(-40, 40) + bias).numpy()

    def failing(weight: Tensor, bias: Tensor, hidden: Tensor) -> products.Product:
        raise RuntimeError("not on this machine")

    assert not works(saturating)
    assert not works(failing)
    assert works(torch_product)
    monkeypatch.setattr(products, "int8_product", saturating)
    monkeypatch.setattr(products, "int7_product", torch_product)
    assert choose_product(products.INT8_FROM, 1, "auto", CPU) is torch_product
