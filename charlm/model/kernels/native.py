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
        hidden, cell = (allocate_states(part, time) for part in (h, split_units(c)))
        gates = torch.empty(time, cell.shape[1], lanes, WIDTH)
        if ids is None:
            vectors = vectors.contiguous()
            panels = torch.cat([packed_ih, packed_hh], 1)
            source: dict[str, Any] = {"num_inputs": vectors.shape[-1], "inputs": vectors, "bias": packed_bias}
        else:
            ids = ids.contiguous()
            panels = packed_hh
            source = {"table": torch.addmm(packed_bias[:, 0], vectors, packed_ih.T), "ids": ids}
        panels = panels.view(-1, WIDTH, panels.shape[1]).transpose(1, 2).contiguous()
        call_kernel("forward", gates=gates, hidden=hidden, cell=cell, resets=resets, panels=panels, **source)
        ctx.save_for_backward(vectors, ids, packed_ih, packed_hh, hidden, cell, gates, resets)
        ctx.set_materialize_grads(False)
        ctx.is_fresh = True
        return hidden[1:], hidden[-1].clone(), join_units(cell[-1], h.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.is_fresh:
            raise RuntimeError("the native kernel goes backward through a window only once")
        ctx.is_fresh = False  # what was saved is overwritten from here on
        vectors, ids, packed_ih, packed_hh, hidden, cell, gates, resets = ctx.saved_tensors
        units, inputs, width = hidden.shape[2], vectors.shape[-1], len(packed_hh)
        d_outputs, d_h, d_c = (
            torch.zeros(shape) if gradient is None else gradient
            for gradient, shape in zip(gradients, (hidden[1:].shape, hidden[0].shape, hidden[0].shape), strict=True)
        )
        d_h, d_c = d_h.clone(memory_format=torch.contiguous_format), split_units(d_c).clone()
        d_vectors = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None
        panels = backward_panels(packed_hh)
        d_weights = torch.zeros(width // WIDTH, units + (inputs if ids is None else 0), WIDTH)
        if ids is None:
            d_sums = torch.zeros(1, width)
            results: dict[str, Any] = {
                "num_inputs": inputs,
                "inputs": vectors,
                "bias_gradients": d_sums,
                "input_gradients": d_vectors,
            }
            if d_vectors is not None:
                panels = torch.cat([panels, backward_panels(packed_ih)])
        else:
            d_sums = torch.zeros(len(vectors), width)
            results = {"ids": ids, "table_gradients": d_sums}
        call_kernel(
            "backward",
            gates=gates,
            hidden=hidden,
            cell=cell,
            resets=resets,
            panels=panels,
            before=hidden[:-1] if resets is None else hidden[:-1].masked_fill(resets[:, :, None], 0),
            output_gradients=d_outputs.contiguous(),
            hidden_gradients=d_h,
            cell_gradients=d_c,
            weight_gradients=d_weights,
            **results,
        )
        d_weight = unpack(d_weights.transpose(1, 2).reshape(width, -1), units)
        d_bias = unpack(d_sums.sum(0)[:, None], units)[:, 0]
        if ids is None:
            d_weight_ih, d_weight_hh = d_weight[:, :inputs], d_weight[:, inputs:]
        else:
            d_weight_ih, d_weight_hh = unpack(d_sums.T @ vectors, units), d_weight
            d_vectors = None if d_vectors is None else torch.mm(d_sums, packed_ih, out=d_vectors)
        return d_vectors, None, d_weight_ih, d_weight_hh, d_bias, d_h, join_units(d_c, units), None


def allocate_states(part: Tensor, time: int) -> Tensor:
    """Room for a part of the state before a window and after each of its steps, ``(time + 1, …)``."""
    states = part.new_empty(time + 1, *part.shape)
    states[0] = part
    return states


def split_units(part: Tensor) -> Tensor:
    """``(lane, hidden)`` → ``(block, lane, 8)``, with zeros for the units that the last block lacks."""
    padded = functional.pad(part, (0, -part.shape[1] % BLOCK))
    return padded.view(len(part), -1, BLOCK).transpose(0, 1).contiguous()


def join_units(part: Tensor, units: int) -> Tensor:
    """The reverse of :func:`split_units`."""
    return part.transpose(0, 1).reshape(part.shape[1], -1)[:, :units].contiguous()


def pack(weight: Tensor) -> Tensor:
    """``(gates × hidden, …)`` → ``(block × gate × 8, …)``, with rows of zeros where the last block has fewer units."""
    by_gate = weight.view(GATES, -1, weight.shape[1])
    padded = functional.pad(by_gate, (0, 0, 0, -by_gate.shape[1] % BLOCK))
    return padded.view(GATES, -1, BLOCK, weight.shape[1]).transpose(0, 1).reshape(-1, weight.shape[1])


def unpack(packed: Tensor, units: int) -> Tensor:
    """The reverse of :func:`pack`."""
    by_gate = packed.view(-1, GATES, BLOCK, packed.shape[1]).transpose(0, 1).reshape(GATES, -1, packed.shape[1])
    return by_gate[:, :units].reshape(GATES * units, packed.shape[1])


def backward_panels(packed: Tensor) -> Tensor:
    """Packed weights as the backward pass multiplies with them: ``(panel of 32 columns, row, 32)``."""
    padded = functional.pad(packed, (0, -packed.shape[1] % WIDTH))
    return padded.view(len(packed), -1, WIDTH).transpose(0, 1).contiguous()


def call_kernel(direction: str, *, gates: Tensor, hidden: Tensor, num_inputs: int = 0, **others: Tensor | None) -> None:
    """What the parts mean is in ``native/kernels.h``, where the fields have the same names."""
    (states, lanes, units), threads = hidden.shape, torch.get_num_threads()
    window = LayerWindow(states - 1, lanes, units, threads, num_inputs)
    for name, part in {"gates": gates, "hidden": hidden, **others}.items():
        if part is not None:
            assert part.is_contiguous(), name
            setattr(window, name, part.data_ptr())
    library: Any = load_native().library
    if getattr(library, f"charlm_lstm_{direction}_avx2")(ctypes.byref(window)):
        raise MemoryError
