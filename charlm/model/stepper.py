"""The network one step at a time, for sampling: weights laid out once, buffers made once, few and large operations.

A step of one character costs as much in calls as in arithmetic, so there are as few of both as can be:

- One matrix a layer holds all that its hidden state is multiplied with: ``weight_hh`` for its own next step and, below
  it, ``weight_ih`` of the layer above, or the output matrix. So a network of n layers takes n products a character.
- The first layer's input is one of ``vocabulary + 1`` rows: their products with its ``weight_ih`` are a table.
- σ(x) = ½ + ½ tanh(½ x): one tanh does for all gates. The inner half is in the weights.
- On a CPU numpy does what is between the products, and writes into buffers: a call costs a third of one of torch.
  Elsewhere torch does it, under the same names.
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
from charlm.model.language_model import CharacterModel
from charlm.model.products import MakeProduct, choose_product, numpy_product
from charlm.model.recurrent import RecurrentLayer
from charlm.model.threads import ThreadLimit, count_useful_threads

KEPT = 2  # steppers of a model, each with a copy of its weights
GATE_HALVES = {"lstm": (0.5, 0.5, 1.0, 0.5), "gru": (0.5, 0.5, 1.0), "rnn": (1.0,)}  # ½ where a gate is a σ


class Stepper:
    """Steps of ``lanes`` texts side by side, on the device of ``model``, from the state that :meth:`start` is given.

    ``precision``: ``fp32``, or ``auto`` for the fastest product (:mod:`charlm.model.products`).
    """

    @torch.no_grad()
    def __init__(self, model: CharacterModel, lanes: int = 1, precision: str = "auto") -> None:
        layers = [layer for layer in model.recurrent.layers if isinstance(layer, RecurrentLayer)]
        first, *upper = layers
        halves = torch.tensor(GATE_HALVES[first.cell], device=first.bias.device).repeat_interleave(first.hidden_size)
        self.device = first.bias.device
        self.input_table = _array((model.embedding.weight @ first.weight_ih.T + first.bias) * halves)
        above = [(layer.weight_ih * halves[:, None], layer.bias * halves) for layer in upper]
        above.append((model.output_matrix(), model.output_bias))
        products = [
            (torch.cat([layer.weight_hh * halves[:, None], weight]), torch.cat([torch.zeros_like(layer.bias), bias]))
            for layer, (weight, bias) in zip(layers, above, strict=True)
        ]
        largest = max(weight.numel() for weight, _ in products)
        make_product = choose_product(largest, lanes, precision, self.device)
        uses_torch_threads = self.device.type == "cpu" and make_product is not numpy_product
        self.limit = ThreadLimit(count_useful_threads(largest, lanes)) if uses_torch_threads else nullcontext()
        with self.limit:
            self.layers = [
                LayerStep(first.cell, weight, bias, halves, lanes, make_product) for weight, bias in products
            ]

    def start(self, state: State, lanes: Sequence[int] | slice = slice(None)) -> None:
        """Some lanes go on from a state as the model returns it; one of a single lane is that of all of them."""
        for index, layer in enumerate(self.layers):
            for buffer, part in zip(layer.state, state, strict=True):
                buffer[lanes] = part[index]
            with self.limit:
                layer.read_hidden()

    def step(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Read one id a lane, ``(lane,)``. Returns logits of what comes next, ``(lane, vocabulary)``.

        They may stand in a buffer that the next step writes into.
        """
        rows = self.input_table[ids if self.device.type == "cpu" else torch.as_tensor(ids, device=self.device)]
        with self.limit:
            for layer in self.layers:
                rows = layer.step(rows)
        logits: NDArray[np.float32] = rows if self.device.type == "cpu" else rows.cpu().numpy()
        return logits


class Steppers:
    """Steppers of one model, kept from one text to the next: to lay the weights out takes longer than many a text.

    One is lent to one text at a time, in whatever thread. The last ``KEPT`` to come back are kept. Whoever changes the
    weights needs new ones; so does a copy of the model, which begins with none.
    """

    def __init__(self, model: CharacterModel) -> None:
        self.model = model
        self.idle: list[tuple[tuple[int, str], Stepper]] = []  # the last one to come back is the last
        self.lock = threading.RLock()  # a stream that is thrown away may end inside of it

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def lent(self, lanes: int, precision: str) -> Iterator[Stepper]:
        key = (lanes, precision)
        with self.lock:
            found = [index for index, (kept, _) in enumerate(self.idle) if kept == key]
            stepper = self.idle.pop(found[-1])[1] if found else None
        if stepper is None:
            stepper = Stepper(self.model, lanes, precision)
        try:
            yield stepper
        finally:
            with self.lock:
                self.idle = [*self.idle, (key, stepper)][-KEPT:]


class LayerStep:
    """One layer: its state, and the product of its hidden state, which its own next step and the layer above read.

    ``state`` holds the parts of :data:`charlm.model.cells.State` as tensors ``(lane, hidden)``. Whoever writes rows of
    it calls :meth:`read_hidden` afterwards.
    """

    def __init__(
        self, cell: str, weight: Tensor, bias: Tensor, halves: Tensor, lanes: int, make_product: MakeProduct
    ) -> None:
        gates, hidden_size = len(halves), weight.shape[1]
        self.library: Any = np if weight.device.type == "cpu" else torch
        self.state = [torch.zeros(lanes, hidden_size, device=weight.device) for _ in range(CELLS[cell].num_states)]
        self.hidden, self.memory = _array(self.state[0]), _array(self.state[-1])
        self.product = make_product(weight, bias, self.state[0])
        self.advance = {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[cell]
        self.gates = gates
        self.sums = _array(torch.empty(lanes, gates, device=weight.device))
        self.by_gate = [self.sums[:, start : start + hidden_size] for start in range(0, gates, hidden_size)]
        self.between = _array(torch.empty_like(self.state[0]))
        self.outer_half, self.shift = _array(halves), _array(1 - halves)
        self.read_hidden()

    def step(self, from_input: Any) -> Any:
        """From what the layer below sends, ``(lane, gates × hidden)``, to what this one sends to the one above."""
        self.advance(from_input)
        return self.read_hidden()

    def read_hidden(self) -> Any:
        product = self.product()
        self.from_hidden = product[:, : self.gates]
        return product[:, self.gates :]

    # The equations of charlm/model/cells.py, in place

    def _lstm(self, from_input: Any) -> None:
        add, multiply, tanh = self.library.add, self.library.multiply, self.library.tanh
        sums, memory, between = self.sums, self.memory, self.between
        input_gate, forget_gate, candidate, output_gate = self.by_gate
        add(from_input, self.from_hidden, out=sums)
        tanh(sums, out=sums)
        multiply(sums, self.outer_half, out=sums)
        add(sums, self.shift, out=sums)
        multiply(forget_gate, memory, out=memory)
        multiply(input_gate, candidate, out=between)
        add(memory, between, out=memory)
        tanh(memory, out=between)
        multiply(output_gate, between, out=self.hidden)

    def _gru(self, from_input: Any) -> None:
        add, multiply, tanh = self.library.add, self.library.multiply, self.library.tanh
        reset_gate, update_gate, candidate = self.by_gate
        hidden, between = self.hidden, self.between
        both = 2 * hidden.shape[1]  # the reset and the update gate
        gates = self.sums[:, :both]
        add(from_input[:, :both], self.from_hidden[:, :both], out=gates)
        tanh(gates, out=gates)
        multiply(gates, 0.5, out=gates)
        add(gates, 0.5, out=gates)
        multiply(reset_gate, self.from_hidden[:, both:], out=candidate)
        add(candidate, from_input[:, both:], out=candidate)
        tanh(candidate, out=candidate)
        self.library.subtract(hidden, candidate, out=between)
        multiply(update_gate, between, out=between)
        add(candidate, between, out=hidden)

    def _rnn(self, from_input: Any) -> None:
        self.library.add(from_input, self.from_hidden, out=self.sums)
        self.library.tanh(self.sums, out=self.hidden)


def _array(tensor: Tensor) -> Any:
    """The same numbers for numpy where they are in the processor's memory, else as they are."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


@torch.inference_mode()
def read(model: CharacterModel, ids: Tensor, chunk: int = 1024) -> tuple[NDArray[np.float32], State]:
    """Read a whole prompt, ``(time, lane)``, from a state of zero, at the speed of training.

    Returns logits of what comes next, ``(lane, vocabulary)``, and the state, which :meth:`Stepper.start` takes.
    """
    state = model.zero_state(ids.shape[1])
    for start in range(0, len(ids), chunk):
        outputs, state = model.recurrent(model.embed(ids[start : start + chunk]), state)
    logits = functional.linear(outputs[-1], model.output_matrix(), model.output_bias)
    return logits.cpu().numpy(), state
