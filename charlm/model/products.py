"""The matrix product of a sampling step, in the fastest way that this machine has.

A step reads every weight once, so at few lanes it is as fast as the weights come from memory, and smaller weights are
faster weights. In order of preference, on a CPU:

int8    from INT8_FROM weights on: weights rounded to 8 bits, each row with a scale of its own, and the hidden state
        rounded to 127 steps either way: it never leaves -1 to 1, so its scale is known before. Integers are summed
        exactly, so a lane comes out the same beside any number of others. FBGEMM's, by a private operator of torch's.
int7    the same with 63 steps for the hidden state: processors before VNNI saturate sums of two products of 8 bits.
oneDNN  fp32, weights laid out once, for several lanes or threads. By a private operator of torch's.
plain   fp32, always there: numpy's for one lane, where a call costs a third of one of torch, else torch's.

An operator that is missing, or that fails its check, is passed over.

All of them use torch's threads or none but the caller's. numpy's BLAS has threads of its own, and threads of two pools
that take turns cost a sampling step forty times its time: each pool spins, waiting for its next product, on the cores
that the other one computes with. So nothing else in charlm calls that BLAS, and here it gets pieces that it does not
share among its threads. Measured speeds: docs/benchmarks.md.
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

INT8_FROM = 1 << 18  # weights; with fewer, fp32 was measured to be as fast
ONEDNN_FROM = 1 << 21  # weights, for one lane
CHANGES_PROCESS = threading.RLock()  # torch's engine and the filters of warnings are those of all threads
STEPS = 127  # from 0 to the largest number of a weight's row, and of the hidden state
FEWER_STEPS = 63  # of the hidden state: then 2 × STEPS × FEWER_STEPS × 2 stays below 2¹⁵, which VNNI does without
UNSHARED = 9215  # weights: OpenBLAS shares the product of a matrix and a vector among threads from 9,216 on


def make_product(weight: Tensor, bias: Tensor, hidden: Tensor, precision: str) -> Product:
    """``weight``: ``(row, column)``; ``bias``: ``(row,)``; ``hidden``: ``(lane, column)``, from -1 to 1.

    ``precision``: auto or fp32. The product is ``(lane, row)``, for numpy on a CPU and for torch elsewhere.
    """
    if hidden.device.type != "cpu":
        return lambda: torch.addmm(bias, hidden, weight.T)
    if precision == "auto" and weight.numel() >= INT8_FROM:
        for make in (int8_product, int7_product):
            if works(make):
                return make(weight, bias, hidden)
    if (len(hidden) > 1 or weight.numel() >= ONEDNN_FROM) and works(onednn_product):
        return onednn_product(weight, bias, hidden)
    return plain_product(weight, bias, hidden)


def int8_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    return _fbgemm_product(weight, bias, hidden, STEPS)


def int7_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    return _fbgemm_product(weight, bias, hidden, FEWER_STEPS)


def _fbgemm_product(weight: Tensor, bias: Tensor, hidden: Tensor, hidden_steps: int) -> Product:
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

    def product() -> Any:
        # torch would ask the packed weights whether they override its functions; their "no" is a C++ exception, 15 µs
        with torch._C.DisableTorchFunctionSubclass():
            return multiply(hidden, 1 / hidden_steps, hidden_steps, packed).numpy()

    return product


def onednn_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    multiply = torch.ops.mkldnn._linear_pointwise.default._op
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(hidden))
    return lambda: multiply(hidden, packed, bias, "none", [], "").numpy()


def plain_product(weight: Tensor, bias: Tensor, hidden: Tensor) -> Product:
    if len(hidden) > 1:
        return lambda: torch.addmm(bias, hidden, weight.T).numpy()
    rows, columns = weight.shape
    block = max(1, UNSHARED // columns)
    padding = torch.zeros(-rows % block, columns)
    blocks = torch.cat([weight, padding]).view(-1, block, columns).numpy()
    sums = np.empty(blocks.shape[:2], dtype=np.float32)  # (block, row within it)
    product = sums.reshape(1, -1)[:, :rows]
    vector, add = hidden.numpy()[0], bias.numpy()

    def multiply() -> Any:
        np.matmul(blocks, vector, out=sums)
        return np.add(product, add, out=product)

    return multiply


@cache
def works(make: MakeProduct) -> bool:
    """Whether a product is there and right, for the largest sums and for mixed ones, both exact in 8 bits and in 7."""
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
