"""An LSTM layer in C (``native/``): fp32 with AVX2 and FMA. How it works: docs/kernels.md.

The gates of a unit are next to each other here, in blocks of eight units: ``(block, gate, 8)``. Weights are brought
into that order once for each window, and their gradients back. Resets need no packing: the kernel reads zeros where the
state begins anew.
"""

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from charlm.model.cells import State
from charlm.model.kernels.interface import Arranged, Inputs, Layer, Tokens
from charlm.model.kernels.library import LayerWindow, load_native

GATES = 4
BLOCK = 8  # units
WIDTH = GATES * BLOCK  # of a block's gates, and of a panel
CONFLICT = 512  # floats: rows at a multiple of this distance push each other out of a cache


class NativeKernel:
    """The layout of a window is its resets, ``(time, lane)``, if there are any."""

    name = "native"

    def arrange(self, inputs: Inputs, resets: NDArray[np.bool_] | None) -> Arranged:
        return Arranged(inputs, None if resets is None else torch.from_numpy(np.ascontiguousarray(resets)))

    def run(
        self, layer: Layer, inputs: Inputs, state: State, layout: Tensor | None, precision: str
    ) -> tuple[Tensor, State]:
        vectors, ids = (inputs.embedding, inputs.ids) if isinstance(inputs, Tokens) else (inputs, None)
        weights = (layer.weight_ih, layer.weight_hh, layer.bias)
        apply: Any = LSTMWindow.apply
        outputs, *new_state = apply(vectors, ids, *weights, *state, layout)
        return outputs, tuple(new_state)

    def restore(self, outputs: Tensor, layout: Tensor | None) -> Tensor:
        return outputs


class LSTMWindow(torch.autograd.Function):
    """A layer over a window. Returns its outputs ``(time, lane, hidden)`` and the last ``h`` and ``c``."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,  # (time, lane, input); or with ids the table that they are rows of, (id, input)
        ids: Tensor | None,  # (time, lane)
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        h: Tensor,
        c: Tensor,
        resets: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        time, lanes = vectors.shape[:2] if ids is None else ids.shape
        packed_ih, packed_hh, packed_bias = (pack(part) for part in (weight_ih, weight_hh, bias[:, None]))
        width = len(packed_ih)
        gates = torch.empty(time * lanes, width + (16 if width % CONFLICT == 0 else 0))
        inputs = vectors.reshape(-1, vectors.shape[-1])
        sums = gates[:, :width] if ids is None else torch.empty(len(inputs), width)
        torch.addmm(packed_bias[:, 0], inputs, packed_ih.T, out=sums)
        hidden, cell = (allocate_states(part, time) for part in (h, c))
        panels = copy_panels(packed_hh.view(-1, WIDTH, packed_hh.shape[1]).transpose(1, 2))
        ids = None if ids is None else ids.contiguous()
        call_kernel("forward", gates, hidden, cell, resets, panels, table=None if ids is None else sums, ids=ids)
        ctx.save_for_backward(inputs, ids, packed_ih, packed_hh, hidden, cell, gates, resets)
        ctx.set_materialize_grads(False)
        ctx.input_shape = vectors.shape
        return hidden[1:], hidden[-1].clone(), cell[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if not hasattr(ctx, "input_shape"):
            raise RuntimeError("the native kernel goes backward through a window only once")
        inputs, ids, packed_ih, packed_hh, hidden, cell, gates, resets = ctx.saved_tensors
        input_shape = ctx.input_shape
        del ctx.input_shape  # what was saved is overwritten from here on
        units = hidden.shape[2]
        d_outputs, d_h, d_c = (
            torch.zeros(shape) if gradient is None else gradient.contiguous()
            for gradient, shape in zip(gradients, (hidden[1:].shape, hidden[0].shape, cell[0].shape), strict=True)
        )
        d_h, d_c = d_h.clone(), d_c.clone()
        padded = functional.pad(packed_hh, (0, -units % WIDTH))
        panels = copy_panels(padded.view(len(packed_hh), -1, WIDTH).transpose(0, 1))
        call_kernel("backward", gates, hidden, cell, resets, panels, d_outputs=d_outputs, d_h=d_h, d_c=d_c)

        d_sums = gates[:, : len(packed_hh)]
        before = hidden[:-1] if resets is None else hidden[:-1].masked_fill(resets[:, :, None], 0)
        d_weight_hh = unpack(d_sums.T @ before.reshape(-1, units), units)
        if ids is not None:  # of the table's rows; all that follows is small
            d_sums = add_rows(gates, len(packed_hh), ids, len(inputs))
        d_weight_ih = unpack(d_sums.T @ inputs, units)
        d_bias = unpack(d_sums.sum(0)[:, None], units)[:, 0]
        d_vectors = (d_sums @ packed_ih).view(input_shape) if ctx.needs_input_grad[0] else None
        return d_vectors, None, d_weight_ih, d_weight_hh, d_bias, d_h, d_c, None


def allocate_states(part: Tensor, time: int) -> Tensor:
    """Room for a part of the state before a window and after each of its steps, ``(time + 1, lane, hidden)``."""
    states = part.new_empty(time + 1, *part.shape)
    states[0] = part
    return states


def pack(weight: Tensor) -> Tensor:
    """``(gates × hidden, …)`` → ``(block × gate × 8, …)``, with rows of zeros where the last block has fewer units."""
    by_gate = weight.view(GATES, -1, weight.shape[1])
    padded = functional.pad(by_gate, (0, 0, 0, -by_gate.shape[1] % BLOCK))
    return padded.view(GATES, -1, BLOCK, weight.shape[1]).transpose(0, 1).reshape(-1, weight.shape[1])


def unpack(packed: Tensor, units: int) -> Tensor:
    """The reverse of :func:`pack`."""
    by_gate = packed.view(-1, GATES, BLOCK, packed.shape[1]).transpose(0, 1).reshape(GATES, -1, packed.shape[1])
    return by_gate[:, :units].reshape(GATES * units, packed.shape[1])


def copy_panels(weights: Tensor) -> Tensor:
    """``(panel, row, 32)``, copied to where vectors may be loaded from: a multiple of 64 bytes."""
    size = weights.numel()
    memory = torch.empty(size + 16)
    start = -memory.data_ptr() // 4 % 16
    return memory[start : start + size].view(weights.shape).copy_(weights)


def call_kernel(
    direction: str,
    gates: Tensor,
    hidden: Tensor,
    cell: Tensor,
    resets: Tensor | None,
    panels: Tensor,
    table: Tensor | None = None,
    ids: Tensor | None = None,
    d_outputs: Tensor | None = None,
    d_h: Tensor | None = None,
    d_c: Tensor | None = None,
) -> None:
    """What the fields mean is in ``native/kernels.h``."""
    (steps, lanes, units), threads = hidden.shape, torch.get_num_threads()
    parts = (table, ids, gates, hidden, cell, resets, panels, d_outputs, d_h, d_c)
    pointers = [None if part is None else part.data_ptr() for part in parts]
    table_stride = 0 if table is None else table.stride(0)
    window = LayerWindow(steps - 1, lanes, units, threads, gates.stride(0), table_stride, *pointers)
    library: Any = load_native().library
    if getattr(library, f"charlm_lstm_{direction}_avx2")(ctypes.byref(window)):
        raise MemoryError


def add_rows(gates: Tensor, width: int, ids: Tensor, count: int) -> Tensor:
    """The rows of gradients added up by id, ``(id, width)``."""
    sums = torch.zeros(count, width)
    library: Any = load_native().library
    library.charlm_add_rows_avx2(
        gates.data_ptr(), len(gates), gates.stride(0), width, ids.data_ptr(), sums.data_ptr(), torch.get_num_threads()
    )
    return sums
