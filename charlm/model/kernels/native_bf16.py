"""An LSTM layer in C (``native/``): bf16 with AMX or AVX-512. How it works: docs/kernels-bf16.md.

All products of the layer are made there, and weights, states and gradients are fp32 here. Only the sums from the input
of a first layer, which reads ids, are made by PyTorch: a table of them is small.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charlm.model.kernels.library import AMX, Bf16Window, Native, load_native
from charlm.model.kernels.native import NativeKernel, allocate_states


class NativeBf16Kernel(NativeKernel):
    """``native``: what :func:`~charlm.model.kernels.library.load_native` returns, unless a test has another."""

    def __init__(self, native: Native | None = None) -> None:
        self.native = native or load_native()

    def apply(self, *arguments: Any) -> Any:
        return LSTMBf16Window.apply(self.native, *arguments)  # type: ignore[no-untyped-call]


class LSTMBf16Window(torch.autograd.Function):
    """A layer over a window. Returns its outputs ``(time, lane, hidden)`` and the last ``h`` and ``c``."""

    @staticmethod
    def forward(
        ctx: Any,
        native: Native,
        vectors: Tensor,  # (time, lane, input); or with ids the table that they are rows of, (id, input)
        ids: Tensor | None,  # (time, lane)
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        h: Tensor,
        c: Tensor,
        resets: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        vectors, weight_ih, weight_hh = (part.contiguous() for part in (vectors, weight_ih, weight_hh))
        if ids is None:
            time, table = len(vectors), None
        else:
            ids = ids.contiguous()
            time, table = len(ids), torch.addmm(bias, vectors, weight_ih.T)
        hidden, cell = (allocate_states(part, time) for part in (h, c))
        call = Call(native, hidden, cell, ids, weight_ih, weight_hh, resets)
        kept, scratch = call.allocate()
        call.run("forward", table=table, inputs=None if table is not None else vectors, bias=bias, scratch=scratch)
        ctx.save_for_backward(vectors, ids, weight_ih, weight_hh, hidden, cell, resets, kept)
        ctx.set_materialize_grads(False)
        ctx.native = native
        return hidden[1:], hidden[-1].clone(), cell[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        vectors, ids, weight_ih, weight_hh, hidden, cell, resets, kept = ctx.saved_tensors
        d_outputs, d_h, d_c = (
            torch.zeros(shape) if gradient is None else gradient.contiguous()
            for gradient, shape in zip(gradients, (hidden[1:].shape, hidden[0].shape, cell[0].shape), strict=True)
        )
        d_h, d_c, d_weight_hh = d_h.clone(), d_c.clone(), torch.empty_like(weight_hh)
        wants_inputs = ctx.needs_input_grad[1]
        d_sums = torch.zeros(1 if ids is None else len(vectors), len(weight_hh))
        d_vectors = torch.empty_like(vectors) if ids is None and wants_inputs else None
        d_weight_ih = torch.empty_like(weight_ih) if ids is None else None
        call = Call(ctx.native, hidden, cell, ids, weight_ih, weight_hh, resets, kept)
        _, scratch = call.allocate()
        call.run(
            "backward",
            scratch=scratch,
            output_gradients=d_outputs,
            hidden_gradients=d_h,
            cell_gradients=d_c,
            input_gradients=d_vectors,
            weight_ih_gradients=d_weight_ih,
            weight_hh_gradients=d_weight_hh,
            sum_gradients=d_sums,
        )
        if ids is not None:  # the gradients of the table; all that follows is small
            d_weight_ih = d_sums.T @ vectors
            d_vectors = d_sums @ weight_ih if wants_inputs else None
        return None, d_vectors, None, d_weight_ih, d_weight_hh, d_sums.sum(0), d_h, d_c, None


class Call:
    """A window as the library reads it. What the fields mean is in ``native/kernels.h``."""

    def __init__(
        self,
        native: Native,
        hidden: Tensor,
        cell: Tensor,
        ids: Tensor | None,
        weight_ih: Tensor,
        weight_hh: Tensor,
        resets: Tensor | None,
        kept: Tensor | None = None,  # from the forward pass, in the backward pass
    ) -> None:
        self.library: Any = native.library
        steps, lanes, units = hidden.shape
        sizes = (steps - 1, lanes, units, weight_ih.shape[1], torch.get_num_threads())
        self.kept = kept
        self.window = Bf16Window(*sizes, native.bf16 == AMX, kept is not None)
        self.fill(hidden=hidden, cell=cell, ids=ids, weight_ih=weight_ih, weight_hh=weight_hh, resets=resets)

    def fill(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            setattr(self.window, name, None if tensor is None else tensor.data_ptr())

    def allocate(self) -> tuple[Tensor, Tensor]:
        """What the backward pass will want to have kept, and room for the time of the call."""
        kept, scratch = ctypes.c_int64(), ctypes.c_int64()
        pointers = (ctypes.byref(part) for part in (self.window, kept, scratch))
        self.library.charlm_bf16_buffer_sizes_avx512(*pointers)
        self.kept = allocate_aligned(kept.value) if self.kept is None else self.kept
        return self.kept, allocate_aligned(scratch.value)

    def run(self, direction: str, **tensors: Tensor | None) -> None:
        self.fill(kept=self.kept, **tensors)
        getattr(self.library, f"charlm_bf16_{direction}_avx512")(ctypes.byref(self.window))


def allocate_aligned(size: int) -> Tensor:
    """Memory for floats that begins at a multiple of 64 bytes."""
    memory = torch.empty(size + 16)
    start = -memory.data_ptr() // 4 % 16
    return memory[start : start + size]
