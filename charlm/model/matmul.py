"""The fastest matrix multiplication for a sampling step on this machine.

With few lanes, a step is limited by memory bandwidth, so smaller weights are faster. In order of preference, on a CPU:

int8    for matrices of INT8_FROM weights or more: weights rounded to 8 bits, with a scale for each row, and the hidden
        state rounded to 127 steps either way; it never leaves -1 to 1, so its scale is known in advance. Integers are
        summed exactly, so a lane comes out the same beside any number of others. FBGEMM's, by a private operator of
        torch's.
int7    the same with 63 steps for the hidden state. Processors without VNNI add two products of 8 bits in 16 and
        saturate; with one bit less they don't.
oneDNN  fp32, with the weights laid out once: for several lanes, and for ONEDNN_FROM weights or more. By a private
        operator of torch's.
numpy   fp32, for one lane, where a call costs a third of one of torch. For several lanes, torch's plain product.

Operators that are missing or fail a correctness check are skipped.

All matrix multiplications of a network use the same implementation. torch and numpy's BLAS each have a thread pool;
alternating between them makes a step thirty times slower, because waiting threads of one pool spin on the processors
that the other needs. Measured speeds: docs/benchmarks.md.
"""

import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MatMul = Callable[[], Any]
"""Computes ``hidden @ weight.T + bias`` from the current ``hidden``: a numpy array on a CPU, else a tensor."""
MatMulFactory = Callable[[Tensor, Tensor, Tensor], MatMul]
"""From ``weight`` ``(row, column)``, ``bias`` ``(row,)`` and ``hidden`` ``(lane, column)``, which is within -1 to 1."""

INT8_MIN_WEIGHTS = 1 << 19  # weights of the largest matrix; with fewer, numpy's fp32 was measured to be as fast
ONEDNN_MIN_WEIGHTS = 1 << 22  # weights of the largest matrix; with fewer, numpy's was measured to be faster
PROCESS_LOCK = threading.RLock()  # torch's engine and the warning filters are process-wide
INT8_LEVELS = 127  # from 0 to the largest value of a row of weights, and of the hidden state
INT7_LEVELS = 63  # of the hidden state, which is shifted to 0 … 2 × 63: 2 × (126 × 127) fits in 16 bits with a sign
SINGLE_THREAD_MAX_WEIGHTS = 1 << 18  # up to this size, OpenBLAS multiplies a vector in the calling thread


def choose_matmul(weights: int, lanes: int, precision: str, device: torch.device) -> MatMulFactory:
    """Choose the implementation for a network whose largest matrix has this many weights. ``precision``: auto or
    fp32.
    """
    if device.type != "cpu":
        return torch_matmul
    candidates: list[MatMulFactory] = []
    if precision == "auto" and weights >= INT8_MIN_WEIGHTS:
        candidates += [int8_matmul, int7_matmul]
    if lanes > 1 or weights >= ONEDNN_MIN_WEIGHTS:
        candidates.append(onednn_matmul)
    return next(filter(is_supported, candidates), numpy_matmul if lanes == 1 else torch_matmul)


def int8_matmul(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
    return _fbgemm_matmul(weight, bias, hidden, INT8_LEVELS)


def int7_matmul(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
    return _fbgemm_matmul(weight, bias, hidden, INT7_LEVELS)


def _fbgemm_matmul(weight: Tensor, bias: Tensor, hidden: Tensor, hidden_levels: int) -> MatMul:
    # _op skips the wrapper's search for arguments that only occur during compilation
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default._op
    scales = (weight.abs().amax(1) / INT8_LEVELS).clamp_min(torch.finfo(weight.dtype).tiny)
    rounded = (weight / scales[:, None]).round_().to(torch.int8)
    no_shift = torch.zeros(len(weight), dtype=torch.long)
    with PROCESS_LOCK, warnings.catch_warnings():  # deprecated in torch; when it is removed, the check fails
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch._make_per_channel_quantized_tensor(rounded, scales.double(), no_shift, 0)
    with PROCESS_LOCK:
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # decides how weights are laid out; the only one that can do this
        try:
            packed = torch.ops.quantized.linear_prepack(quantized, bias)
        finally:
            torch.backends.quantized.engine = engine

    def matmul() -> Any:
        # Else torch asks the packed weights whether they override its functions; their no is a C++ exception, 15 µs
        with torch._C.DisableTorchFunctionSubclass():
            return multiply(hidden, 1 / hidden_levels, hidden_levels, packed).numpy()

    return matmul


def onednn_matmul(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
    multiply = torch.ops.mkldnn._linear_pointwise.default._op
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(hidden))
    return lambda: multiply(hidden, packed, bias, "none", [], "").numpy()


def numpy_matmul(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
    """For one lane, in row blocks small enough that BLAS does not use several threads."""
    rows, columns = weight.shape
    block = min(rows, max(1, SINGLE_THREAD_MAX_WEIGHTS // columns))
    padding = torch.zeros(-rows % block, columns)
    blocks = torch.cat([weight, padding]).view(-1, block, columns).numpy()
    sums = np.empty(blocks.shape[:2], dtype=np.float32)  # (block, row of it)
    product = sums.reshape(1, -1)[:, :rows]
    vector, add = hidden.numpy()[0], bias.numpy()

    def multiply() -> Any:
        np.matmul(blocks, vector, out=sums)
        return np.add(product, add, out=product)

    return multiply


def torch_matmul(weight: Tensor, bias: Tensor, hidden: Tensor) -> MatMul:
    if hidden.device.type != "cpu":
        return lambda: torch.addmm(bias, hidden, weight.T)
    return lambda: torch.addmm(bias, hidden, weight.T).numpy()


@cache
def is_supported(make_matmul: MatMulFactory) -> bool:
    """Whether an implementation exists and is correct, for maximal and mixed sums that are exact in 8 and 7 bits."""
    weight = torch.ones(32, 64)
    weight[1::2, ::2] = -1
    hidden = torch.ones(2, 64)
    hidden[1, ::4] = -1
    bias = torch.arange(32.0)
    try:
        product = make_matmul(weight, bias, hidden)()
    except (AttributeError, NotImplementedError, RuntimeError):  # the operator does not exist, or not on this machine
        return False
    return np.allclose(product, (hidden @ weight.T + bias).numpy(), rtol=0, atol=1e-3)
