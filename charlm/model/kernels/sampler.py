"""Sampling in C (``native/sampler_avx2.c``): many characters in one call, with weights of 8 bits.

The same steps as :class:`charlm.model.stepper.Stepper`, with the draws of :mod:`charlm.generation.filters` in them: the
random numbers come from the caller, so a seed gives the same text on this machine every time.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.model.cells import State
from charlm.model.kernels.library import load_native
from charlm.model.kernels.native import BLOCK, pack

PANEL = 32  # rows
WORTH_WAKING = 1 << 27  # multiplications of a call: fewer are done before a sleeping thread has come
HIDDEN_STEPS = 63  # of the hidden state, from 0 to its largest value; as STEPS in the C source
WEIGHT_STEPS = 127
MULTIPLICATIONS_PER_THREAD = 1 << 18  # of one product; a second thread helps from twice as many
LOWEST_TEMPERATURE = 1e-30  # a temperature that single precision cannot divide by: the most probable character


class SamplerLayer(ctypes.Structure):
    """``SamplerLayer`` of ``native/kernels.h``."""

    _fields_: ClassVar = [
        ("num_rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "offsets", "hidden", "cell", "rounded", "sums")),
    ]


class SamplerFields(ctypes.Structure):
    """``Sampler`` of ``native/kernels.h``."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int64) for name in ("num_layers", "num_lanes", "num_units", "vocabulary_size")),
        *((name, ctypes.c_int64) for name in ("num_threads", "has_pending", "top_k")),
        *((name, ctypes.c_double) for name in ("temperature", "top_p", "min_p")),
        *((name, ctypes.c_void_p) for name in ("layers", "table", "mask", "pauses", "pending", "weights")),
        ("candidates", ctypes.c_void_p),
    ]


class NativeSampler:
    """Texts of one LSTM, ``lanes`` of them, on a CPU.

    ``layers``: ``weight_hh`` and, of what reads the layer, the weights and biases: of the layer above, ``(4 × hidden,
    …)``, or of the output. ``table``: the sums of the first layer's gates for each id.
    """

    @torch.no_grad()
    def __init__(self, table: Tensor, layers: Sequence[tuple[Tensor, Tensor, Tensor]], lanes: int) -> None:
        native: Any = load_native().library
        self.library = native
        self.lanes, self.units = lanes, layers[0][0].shape[1]
        self.vocabulary_size = len(layers[-1][1])
        self.layers = [
            NativeSamplerLayer(weight_hh, above, bias, lanes, is_last=number == len(layers))
            for number, (weight_hh, above, bias) in enumerate(layers, 1)
        ]
        self.structs = (SamplerLayer * len(layers))(*(layer.struct() for layer in self.layers))
        self.table = pack(table.T).T.contiguous()
        self.pending: NDArray[Any] = np.zeros(lanes, dtype=np.int64)
        self.mask: NDArray[Any] = np.zeros(self.vocabulary_size, dtype=np.float32)
        self.pauses: NDArray[Any] = np.zeros(self.vocabulary_size, dtype=np.uint8)
        padded_vocabulary = self.vocabulary_size + -self.vocabulary_size % BLOCK
        self.weights: NDArray[Any] = np.zeros((lanes, padded_vocabulary), dtype=np.float32)
        self.candidates: NDArray[Any] = np.zeros((lanes, self.vocabulary_size))
        self.largest = max(layer.sums.shape[1] for layer in self.layers) * self.units
        sizes = (len(layers), lanes, self.units, self.vocabulary_size, 1, 0)
        self.struct = SamplerFields(*sizes, 0, 1.0, 1.0, 0.0, ctypes.addressof(self.structs), self.table.data_ptr())
        arrays = (self.mask, self.pauses, self.pending, self.weights, self.candidates)
        for name, array in zip(("mask", "pauses", "pending", "weights", "candidates"), arrays, strict=True):
            setattr(self.struct, name, array.ctypes.data)
        last = self.layers[-1]
        self.logits = last.sums.numpy()[:, last.own_rows : last.own_rows + self.vocabulary_size]

    def configure(
        self, temperature: float, top_k: int, top_p: float, min_p: float, mask: NDArray[Any], pauses: NDArray[Any]
    ) -> None:
        """How ids are drawn. ``mask`` and ``pauses``: for each id; :meth:`sample` returns after one that pauses."""
        self.struct.temperature = 0.0 if temperature < LOWEST_TEMPERATURE else temperature
        self.struct.top_k, self.struct.top_p, self.struct.min_p = top_k, top_p, min_p
        self.mask[:], self.pauses[:] = mask, pauses

    def set_state(self, state: State, lanes: Sequence[int] | slice = slice(None)) -> None:
        """Some lanes go on from a state as the model returns it; one of a single lane is that of all of them."""
        for index, layer in enumerate(self.layers):
            for buffer, part in zip((layer.hidden, layer.cell), state, strict=True):
                buffer[lanes, : self.units] = part[index]
        self._set_threads()
        self.library.charlm_sampler_read_hidden_avx2(ctypes.byref(self.struct))

    def read(self, ids: NDArray[Any]) -> None:
        """The ids that come before the first ones to be drawn; one a lane."""
        self.pending[:] = ids
        self.struct.has_pending = 1

    def sample(self, uniform: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids ``(step, lane)`` and their log-probabilities in nats, at most as many steps as ``uniform`` has."""
        ids, nats = np.empty(uniform.shape, dtype=np.int64), np.empty(uniform.shape)
        uniform = np.ascontiguousarray(uniform)
        self._set_threads(len(uniform))
        pointers = (array.ctypes.data for array in (uniform, ids, nats))
        done = self.library.charlm_sample_avx2(ctypes.byref(self.struct), len(uniform), *pointers)
        return ids[:done], nats[:done]

    def advance(self) -> NDArray[np.float32]:
        """Read the ids that were drawn last. Returns logits ``(lane, vocabulary)``, which may be written to."""
        self._set_threads()
        self.library.charlm_sampler_advance_avx2(ctypes.byref(self.struct))
        return self.logits

    def _set_threads(self, steps: int = 1) -> None:
        multiplications = self.largest * self.lanes
        useful = multiplications // MULTIPLICATIONS_PER_THREAD if steps * multiplications >= WORTH_WAKING else 1
        self.struct.num_threads = max(1, min(useful, torch.get_num_threads()))


class NativeSamplerLayer:
    """One layer's weights in 8 bits, and its state."""

    def __init__(self, weight_hh: Tensor, above: Tensor, bias: Tensor, lanes: int, is_last: bool) -> None:
        units = weight_hh.shape[1]
        own = pack(weight_hh)
        self.own_rows = len(own)
        if not is_last:
            above, bias = pack(above), pack(bias[:, None])[:, 0]
        rows = functional.pad(torch.cat([own, above]), (0, 0, 0, -(len(own) + len(above)) % PANEL))
        biases = functional.pad(bias, (len(own), len(rows) - len(own) - len(bias)))
        scales = (rows.abs().amax(1) / WEIGHT_STEPS).clamp_min(torch.finfo(rows.dtype).tiny)
        rounded = (rows / scales[:, None]).round_()
        self.scales = scales / HIDDEN_STEPS  # a sum of whole numbers has the hidden state's zero at HIDDEN_STEPS
        self.offsets = biases - scales * rounded.sum(1)
        wide = functional.pad(rounded.to(torch.int8), (0, -units % PANEL))
        panels = wide.view(-1, PANEL, wide.shape[1] // 4, 4).transpose(1, 2)
        memory = torch.empty(panels.numel() + 64, dtype=torch.int8)
        start = -memory.data_ptr() % 64
        self.weights = memory[start : start + panels.numel()].view(panels.shape).copy_(panels)
        self.hidden, self.cell = (torch.zeros(lanes, units + -units % BLOCK) for _ in range(2))
        self.rounded = torch.zeros(lanes, wide.shape[1], dtype=torch.uint8)
        self.sums = torch.zeros(lanes, len(rows))

    def struct(self) -> SamplerLayer:
        parts = (self.weights, self.scales, self.offsets, self.hidden, self.cell, self.rounded, self.sums)
        return SamplerLayer(self.sums.shape[1], *(part.data_ptr() for part in parts))
