"""The matrix product of a sampling step, in the fastest way that this machine has.

A step reads every weight once, so at few lanes it is as fast as the weights come from memory, and smaller weights are
faster weights. In order of preference, on a CPU:

int8    from INT8_FROM weights on: weights rounded to 8 bits, each row with a scale of its own, and the hidden state
        rounded to 127 steps either way: it never leaves -1 to 1, so its scale is known before. Integers are summed
        exactly, so a lane comes out the same beside any number of others. FBGEMM's, by a private operator of torch's.
oneDNN  fp32, weights laid out once, for several lanes. By a private operator of torch's.
BLAS    fp32, numpy's: always there, and for one lane the fastest of fp32.

An operator that is missing, or that fails its check, is passed over: processors before VNNI saturate sums of int8.
Measured figures: docs/benchmarks.md.
"""

import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Product = Callable[[], Any]
"""Computes ``hidden @ weight.T + bias`` from what ``hidden`` holds now."""
MakeProduct = Callable[[Tensor, Tensor, Tensor], Product]

INT8_FROM = 1 << 20  # weights; matrices of fewer stay in the cache, and BLAS was measured to be faster there
CHANGES_PROCESS = threading.RLock()  # torch's engine and the filters of warnings are those of all threads
STEPS = 127  # from 0 to the largest number of a weight's row, and of the hidden state


def make_product(weight: Tensor, bias: Tensor, hidden: Tensor, precision: str) -> Product:
    """``weight``: ``(row, column)``; ``bias``: ``(row,)``; ``hidden``: ``(lane, column)``, from -1 to 1.

    ``precision``: auto or fp32. The product is ``(lane, row)``, for numpy on a CPU and for torch elsewhere.
    """
    if hidden.device.type != "cpu":
        return lambda: torch.addmm(bias, hidden, weight.T)
    if precision == "auto" and weight.numel() >= INT8_FROM and works(int8_product):
        return int8_product(weight, bias, hidden)
    if len(hidden) > 1 and works(onednn_product):
        return onednn_product(weight, bias, hidden)
    return blas_product(weight, bias, hidden)


def int8_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    # _op is what torch's wrapper calls after a search among the arguments for what is only there while it compiles
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op
    scales = (weight.abs().amax(1) / STEPS).clamp_min(torch.finfo(weight.dtype).tiny)
    rounded = (weight / scales[:, None]).round_().to(torch.int8)
    no_shift = torch.zeros(len(weight), dtype=torch.long)
    with CHANGES_PROCESS, warnings.catch_warnings():  # torch means to take this away some day; then the check fails
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(rounded, scales.double(), no_shift, 0)
    with CHANGES_PROCESS:
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # decides how weights are laid out; the only one that can do this
        try:
            packed = torch.ops.quantized.linear_prepack(quantized, bias)
        finally:
            torch.backends.quantized.engine = engine
    return lambda: multiply(hidden, 1 / STEPS, STEPS, packed).numpy()


def onednn_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    multiply = torch.ops.mkldnn._linear_pointwise.default._op
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(hidden))
    return lambda: multiply(hidden, packed, bias, "none", [], "").numpy()


def blas_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    matrix, add, vectors = weight.numpy(), bias.numpy(), hidden.numpy()
    product = np.empty((len(hidden), len(weight)), dtype=np.float32)
    if len(hidden) > 1:
        return lambda: np.add(np.matmul(vectors, matrix.T, out=product), add, out=product)
    return lambda: np.add(np.dot(matrix, vectors[0], out=product[0]), add, out=product[0])[None]


@cache
def works(make: MakeProduct) -> bool:
    """Whether a product is there and right, for the largest sums and for mixed ones, both exact in 8 bits."""
    weight = torch.ones(32, 64)
    weight[1::2, ::2] = -1
    hidden = torch.ones(2, 64)
    hidden[1, ::4] = -1
    bias = torch.arange(32.0)
    try:
        product = make(weight, bias, hidden)()
    except (AttributeError, NotImplementedError, RuntimeError):  # no such operator, or not on this machine
        return False
    return np.allclose(product, (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-3)
