"""Matrix products of sampling: right wherever they are used, and passed over where they are not."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from charlm.model import products
from charlm.model.products import MakeProduct, int8_product, make_product, onednn_product, plain_product, works

ROWS, COLUMNS = 50, 24
int8 = pytest.mark.skipif(not works(int8_product), reason="this machine or torch has no such product")


@pytest.fixture(autouse=True)
def _checked_anew() -> Iterator[None]:
    works.cache_clear()
    yield
    works.cache_clear()


@pytest.fixture
def _int8_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "INT8_FROM", 1)


def some(lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(ROWS, COLUMNS), torch.randn(ROWS), torch.rand(lanes, COLUMNS) * 2 - 1


@pytest.mark.parametrize("lanes", [1, 2, 7])
@pytest.mark.parametrize("make", [plain_product, onednn_product])
def test_fp32_is_exact_and_reads_what_the_vectors_hold_now(make: MakeProduct, lanes: int) -> None:
    if not works(make):
        pytest.skip("this machine or torch has no such product")
    weight, bias, hidden = some(lanes)
    product = make(weight, bias, hidden)
    for _ in range(2):
        np.testing.assert_allclose(product(), (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-5)
        hidden.neg_()


@int8
@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_int8_is_the_product_of_the_rounded_numbers(lanes: int) -> None:
    weight, bias, hidden = some(lanes)
    scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scales).round() * scales
    expected = (hidden * 127).round() / 127 @ rounded.T + bias
    np.testing.assert_allclose(int8_product(weight, bias, hidden)(), expected.numpy(), rtol=0, atol=1e-4)


@int8
def test_int8_of_a_row_of_zeros_is_its_bias() -> None:
    weight, bias, hidden = some(1)
    weight[3] = 0
    assert int8_product(weight, bias, hidden)()[0, 3] == pytest.approx(bias[3].item(), abs=1e-6)


@int8
def test_int8_gives_a_lane_the_same_bits_beside_any_number_of_others() -> None:
    weight, bias, hidden = some(33)
    together = int8_product(weight, bias, hidden)()
    for lanes in (1, 4, 16):
        assert np.array_equal(int8_product(weight, bias, hidden[:lanes].clone())(), together[:lanes])


@int8
@pytest.mark.usefixtures("_int8_for_all_sizes")
def test_int8_is_for_auto_alone_and_leaves_the_engine_as_it_was() -> None:
    weight, bias, hidden = some(1)
    engine = torch.backends.quantized.engine
    expected = (hidden @ weight.T + bias).numpy()
    assert np.abs(make_product(weight, bias, hidden, "auto")() - expected).max() > 1e-4
    assert np.abs(make_product(weight, bias, hidden, "fp32")() - expected).max() < 1e-5
    assert torch.backends.quantized.engine == engine


def test_auto_leaves_small_matrices_in_fp32() -> None:
    weight, bias, hidden = some(1)
    expected = (hidden @ weight.T + bias).numpy()
    assert np.abs(make_product(weight, bias, hidden, "auto")() - expected).max() < 1e-5


@pytest.mark.usefixtures("_int8_for_all_sizes")
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_without_private_operators_it_is_blas(monkeypatch: pytest.MonkeyPatch, lanes: int, precision: str) -> None:
    class Nothing:
        """As ``torch.ops`` looks where an operator is missing."""

    monkeypatch.setattr(torch, "ops", Nothing())
    weight, bias, hidden = some(lanes)
    assert not works(int8_product)
    assert not works(onednn_product)
    product = make_product(weight, bias, hidden, precision)()
    np.testing.assert_allclose(product, (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-5)


def test_a_product_that_saturates_is_passed_over() -> None:
    """As int8 sums do on processors before VNNI."""

    def saturating(weight: Tensor, bias: Tensor, hidden: Tensor) -> products.Product:
        return lambda: ((hidden @ weight.T).clamp(-40, 40) + bias).numpy()

    def failing(weight: Tensor, bias: Tensor, hidden: Tensor) -> products.Product:
        raise RuntimeError("not on this machine")

    assert not works(saturating)
    assert not works(failing)
    assert works(plain_product)
