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
        outputs, *new_state = self.apply(vectors, ids, *weights, *state, layout)
        return outputs, tuple(new_state)

    def apply(self, *arguments: Any) -> Any:
        return LSTMWindow.apply(*arguments)  # type: ignore[no-untyped-call]

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
        weight_ih, weight_hh = weight_ih.contiguous(), weight_hh.contiguous()
        hidden, cell = (allocate_states(part, time) for part in (h, split_units(c)))
        gates = torch.empty(time, cell.shape[1], lanes, WIDTH)
        if ids is None:
            vectors = vectors.contiguous()
            panels = forward_panels(weight_ih, weight_hh)
            source: dict[str, Any] = {"num_inputs": vectors.shape[-1], "inputs": vectors, "bias": pack(bias[:, None])}
        else:
            ids = ids.contiguous()
            panels = forward_panels(weight_hh)
            source = {"table": pack(torch.addmm(bias, vectors, weight_ih.T).T).T.contiguous(), "ids": ids}
        call_kernel("forward", gates=gates, hidden=hidden, cell=cell, resets=resets, panels=panels, **source)
        ctx.save_for_backward(vectors, ids, weight_ih, weight_hh, hidden, cell, gates, resets)
        ctx.set_materialize_grads(False)
        ctx.is_fresh = True
        return hidden[1:], hidden[-1].clone(), join_units(cell[-1], h.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.is_fresh:
            raise RuntimeError("the native kernel goes backward through a window only once")
        ctx.is_fresh = False  # what was saved is overwritten from here on
        vectors, ids, weight_ih, weight_hh, hidden, cell, gates, resets = ctx.saved_tensors
        units, inputs = hidden.shape[2], vectors.shape[-1]
        d_outputs, d_h, d_c = (
            torch.zeros(shape) if gradient is None else gradient
            for gradient, shape in zip(gradients, (hidden[1:].shape, hidden[0].shape, hidden[0].shape), strict=True)
        )
        d_h, d_c = d_h.clone(memory_format=torch.contiguous_format), split_units(d_c).clone()
        d_vectors = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None
        d_panels = torch.zeros(cell.shape[1], units + (inputs if ids is None else 0), WIDTH)
        d_rows = torch.zeros(1 if ids is None else len(vectors), cell.shape[1] * WIDTH)
        if ids is None:
            weights = [weight_hh] if d_vectors is None else [weight_hh, weight_ih]
            results: dict[str, Any] = {"num_inputs": inputs, "inputs": vectors, "input_gradients": d_vectors}
            results["bias_gradients"] = d_rows
        else:
            weights = [weight_hh]
            results = {"ids": ids, "table_gradients": d_rows}
        call_kernel(
            "backward",
            gates=gates,
            hidden=hidden,
            cell=cell,
            resets=resets,
            panels=backward_panels(weights),
            before=hidden[:-1] if resets is None else hidden[:-1].masked_fill(resets[:, :, None], 0),
            output_gradients=d_outputs.contiguous(),
            hidden_gradients=d_h,
            cell_gradients=d_c,
            weight_gradients=d_panels,
            **results,
        )
        d_sums = unpack(d_rows.T, units)  # (gates × hidden, …): of the bias, or of the table
        d_weight_hh = unpack_panels(d_panels, weight_hh)
        if ids is None:
            d_weight_ih = unpack_panels(d_panels, weight_ih, first_row=0)
        else:
            d_weight_ih = d_sums @ vectors
            d_vectors = None if d_vectors is None else torch.mm(d_sums.T, weight_ih, out=d_vectors)
        return d_vectors, None, d_weight_ih, d_weight_hh, d_sums.sum(1), d_h, join_units(d_c, units), None


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


def forward_panels(*weights: Tensor) -> Tensor:
    """Weights of input and state as the forward pass multiplies with them: ``(block, column, 32)``."""
    units, columns = weights[-1].shape[1], sum(weight.shape[1] for weight in weights)
    panels = torch.empty(-(-units // BLOCK), columns, WIDTH)
    first_row = 0
    for weight in weights:
        move_weights("pack_forward", weight, panels, first_row, columns)
        first_row += weight.shape[1]
    return panels


def unpack_panels(panels: Tensor, like: Tensor, first_row: int | None = None) -> Tensor:
    """The reverse: the weights that stand from a row on, by default the last ones."""
    weights = torch.empty_like(like)
    rows = panels.shape[1]
    move_weights("unpack_forward", weights, panels, rows - like.shape[1] if first_row is None else first_row, rows)
    return weights


def backward_panels(weights: list[Tensor]) -> Tensor:
    """Weights as the backward pass multiplies with them: ``(panel of 32 columns, block × 32, 32)``."""
    counts = [-(-weight.shape[1] // WIDTH) for weight in weights]
    panels = torch.empty(sum(counts), -(-weights[0].shape[1] // BLOCK) * WIDTH, WIDTH)
    first = 0
    for weight, count in zip(weights, counts, strict=True):
        move_weights("pack_backward", weight, panels[first:])
        first += count
    return panels


def move_weights(function: str, weights: Tensor, panels: Tensor, *rows: int) -> None:
    """See ``native/panels.c``."""
    units, threads = len(weights) // GATES, torch.get_num_threads()
    library: Any = load_native().library
    move = getattr(library, f"charlm_{function}")
    move(weights.data_ptr(), units, weights.shape[1], panels.data_ptr(), *rows, threads)


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
