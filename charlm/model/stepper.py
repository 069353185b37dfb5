"""The network as single steps, for sampling: packed weights, preallocated buffers, and few, large operations.

In a single step, call overhead is as large as the arithmetic, so both are minimized:

- One matrix per layer contains everything that its hidden state is multiplied by: ``weight_hh`` for its own next step
  and, below it, ``weight_ih`` of the layer above, or the output matrix. So n layers take n matrix multiplications per
  character.
- The first layer's input is one of ``vocabulary + 1`` rows, so its products with ``weight_ih`` are a lookup table.
- σ(x) = ½ + ½ tanh(½ x), so one tanh computes all gates. The inner ½ is folded into the weights.
- On a CPU, elementwise operations use numpy, whose calls take a third of the time of torch's; elsewhere torch functions
  of the same names.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.model.cells import CELLS, State
from charlm.model.kernels.choice import samples_natively
from charlm.model.kernels.sampler import NativeSampler
from charlm.model.language_model import CharacterModel
from charlm.model.matmul import MatMulFactory, choose_matmul, numpy_matmul
from charlm.model.recurrent import RecurrentLayer
from charlm.model.threads import ThreadLimit, count_useful_threads

MAX_IDLE = 2  # unused steppers kept per model, each with a copy of the weights
GATE_SCALES = {"lstm": (0.5, 0.5, 1.0, 0.5), "gru": (0.5, 0.5, 1.0), "rnn": (1.0,)}  # ½ where a gate is a σ


class Stepper:
    """Steps of ``lanes`` texts in parallel, on the device of ``model``, from the state given to :meth:`set_state`.

    ``precision``: ``fp32``, or ``auto`` for the fastest product (:mod:`charlm.model.matmul`).
    """

    @torch.no_grad()
    def __init__(self, model: CharacterModel, lanes: int = 1, precision: str = "auto") -> None:
        layers = [layer for layer in model.recurrent.layers if isinstance(layer, RecurrentLayer)]
        first, *upper = layers
        gate_scale = torch.tensor(GATE_SCALES[first.cell], device=first.bias.device).repeat_interleave(
            first.hidden_size
        )
        self.device = first.bias.device
        self.input_table = _as_array((model.embedding.weight @ first.weight_ih.T + first.bias) * gate_scale)
        above = [(layer.weight_ih * gate_scale[:, None], layer.bias * gate_scale) for layer in upper]
        above.append((model.output_matrix(), model.output_bias))
        matrices = [
            (
                torch.cat([layer.weight_hh * gate_scale[:, None], weight]),
                torch.cat([torch.zeros_like(layer.bias), bias]),
            )
            for layer, (weight, bias) in zip(layers, above, strict=True)
        ]
        largest = max(weight.numel() for weight, _ in matrices)
        make_matmul = choose_matmul(largest, lanes, precision, self.device)
        uses_torch_threads = self.device.type == "cpu" and make_matmul is not numpy_matmul
        self.thread_limit = ThreadLimit(count_useful_threads(largest, lanes)) if uses_torch_threads else nullcontext()
        with self.thread_limit:
            self.layers = [
                LayerStep(first.cell, weight, bias, gate_scale, lanes, make_matmul) for weight, bias in matrices
            ]

    def set_state(self, state: State, lanes: Sequence[int] | slice = slice(None)) -> None:
        """Set the state of some lanes, as returned by the model; a single-lane state is broadcast."""
        for index, layer in enumerate(self.layers):
            for buffer, part in zip(layer.state, state, strict=True):
                buffer[lanes] = part[index]
            with self.thread_limit:
                layer.update_projections()

    def step(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Read one id per lane, ``(lane,)``. Returns the logits of the next character, ``(lane, vocabulary)``.

        They may be in a buffer that the next step overwrites.
        """
        rows = self.input_table[ids if self.device.type == "cpu" else torch.as_tensor(ids, device=self.device)]
        with self.thread_limit:
            for layer in self.layers:
                rows = layer.step(rows)
        logits: NDArray[np.float32] = rows if self.device.type == "cpu" else rows.cpu().numpy()
        return logits


@torch.no_grad()
def make_native_sampler(model: CharacterModel, lanes: int) -> NativeSampler:
    """The same for the native kernel, which draws the characters too."""
    layers = [layer for layer in model.recurrent.layers if isinstance(layer, RecurrentLayer)]
    first, *upper = layers
    table = model.embedding.weight @ first.weight_ih.T + first.bias
    above = [(layer.weight_ih, layer.bias) for layer in upper] + [(model.output_matrix(), model.output_bias)]
    rows = [(layer.weight_hh, weight, bias) for layer, (weight, bias) in zip(layers, above, strict=True)]
    return NativeSampler(table, rows, lanes)


class StepperPool:
    """A pool of steppers for one model, reused between texts because packing the weights is expensive.

    Each stepper is used by one text at a time, in any thread; the last ``MAX_IDLE`` returned ones are kept. Create a
    new pool after changing the weights. A copy of a pool starts empty.
    """

    def __init__(self, model: CharacterModel) -> None:
        self.model = model
        self.idle: list[tuple[tuple[int, str], Stepper | NativeSampler]] = []  # most recently returned last
        self.lock = threading.RLock()  # a discarded stream may be finalized while it is held

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def borrow(self, lanes: int, precision: str) -> Iterator[Stepper | NativeSampler]:
        key = (lanes, precision)
        with self.lock:
            found = [index for index, (kept, _) in enumerate(self.idle) if kept == key]
            stepper = self.idle.pop(found[-1])[1] if found else None
        if stepper is None:
            recurrent, device = self.model.recurrent, self.model.output_bias.device
            native = samples_natively(recurrent.cell, device, precision, recurrent.kernel)
            stepper = make_native_sampler(self.model, lanes) if native else Stepper(self.model, lanes, precision)
        try:
            yield stepper
        finally:
            with self.lock:
                self.idle = [*self.idle, (key, stepper)][-MAX_IDLE:]


class LayerStep:
    """One layer: its state, and the projections of its hidden state for its own next step and the layer above.

    ``state`` holds the parts of :data:`charlm.model.cells.State` as tensors ``(lane, hidden)``. Call
    :meth:`update_projections` after writing to it.
    """

    def __init__(
        self, cell: str, weight: Tensor, bias: Tensor, gate_scale: Tensor, lanes: int, make_matmul: MatMulFactory
    ) -> None:
        gates, hidden_size = len(gate_scale), weight.shape[1]
        self.xp: Any = np if weight.device.type == "cpu" else torch
        self.state = [torch.zeros(lanes, hidden_size, device=weight.device) for _ in range(CELLS[cell].num_states)]
        self.hidden, self.cell_state = _as_array(self.state[0]), _as_array(self.state[-1])
        self.matmul = make_matmul(weight, bias, self.state[0])
        self.cell_step = {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[cell]
        self.gates = gates
        self.preactivations = _as_array(torch.empty(lanes, gates, device=weight.device))
        self.by_gate = [self.preactivations[:, start : start + hidden_size] for start in range(0, gates, hidden_size)]
        self.scratch = _as_array(torch.empty_like(self.state[0]))
        self.gate_scale, self.gate_shift = _as_array(gate_scale), _as_array(1 - gate_scale)
        self.update_projections()

    def step(self, input_projection: Any) -> Any:
        """Compute a step from the layer's input projection, ``(lane, gates × hidden)``. Returns that of the layer
        above.
        """
        self.cell_step(input_projection)
        return self.update_projections()

    def update_projections(self) -> Any:
        projections = self.matmul()
        self.from_hidden = projections[:, : self.gates]
        return projections[:, self.gates :]

    # The equations of charlm/model/cells.py, in place

    def _lstm(self, input_projection: Any) -> None:
        add, multiply, tanh = self.xp.add, self.xp.multiply, self.xp.tanh
        preactivations, cell_state, scratch = self.preactivations, self.cell_state, self.scratch
        input_gate, forget_gate, candidate, output_gate = self.by_gate
        add(input_projection, self.from_hidden, out=preactivations)
        tanh(preactivations, out=preactivations)
        multiply(preactivations, self.gate_scale, out=preactivations)
        add(preactivations, self.gate_shift, out=preactivations)
        multiply(forget_gate, cell_state, out=cell_state)
        multiply(input_gate, candidate, out=scratch)
        add(cell_state, scratch, out=cell_state)
        tanh(cell_state, out=scratch)
        multiply(output_gate, scratch, out=self.hidden)

    def _gru(self, input_projection: Any) -> None:
        add, multiply, tanh = self.xp.add, self.xp.multiply, self.xp.tanh
        reset_gate, update_gate, candidate = self.by_gate
        hidden, scratch = self.hidden, self.scratch
        both = 2 * hidden.shape[1]  # the reset and the update gate
        gates = self.preactivations[:, :both]
        add(input_projection[:, :both], self.from_hidden[:, :both], out=gates)
        tanh(gates, out=gates)
        multiply(gates, 0.5, out=gates)
        add(gates, 0.5, out=gates)
        multiply(reset_gate, self.from_hidden[:, both:], out=candidate)
        add(candidate, input_projection[:, both:], out=candidate)
        tanh(candidate, out=candidate)
        self.xp.subtract(hidden, candidate, out=scratch)
        multiply(update_gate, scratch, out=scratch)
        add(candidate, scratch, out=hidden)

    def _rnn(self, input_projection: Any) -> None:
        self.xp.add(input_projection, self.from_hidden, out=self.preactivations)
        self.xp.tanh(self.preactivations, out=self.hidden)


def _as_array(tensor: Tensor) -> Any:
    """A numpy view of a CPU tensor; other tensors unchanged."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


@torch.inference_mode()
def prefill(model: CharacterModel, ids: Tensor, chunk: int = 1024) -> tuple[NDArray[np.float32], State]:
    """Read a whole prompt, ``(time, lane)``, from a zero state, with the training kernels.

    Returns logits of what comes next, ``(lane, vocabulary)``, and the state, which :meth:`Stepper.start` takes.
    """
    state = model.zero_state(ids.shape[1])
    for start in range(0, len(ids), chunk):
        outputs, state = model.recurrent(model.embed(ids[start : start + chunk]), state)
    logits = functional.linear(outputs[-1], model.output_matrix(), model.output_bias)
    return logits.cpu().numpy(), state
