"""What every unit of every layer does at each character of a text, from the gate-by-gate cell of ``model/cells.py``.

What is recorded at a character is what the model computes when it reads it: its gates, the states after it, and from
these the probabilities of the next character. Before the first one stands the start token; its step is kept apart.
Where another document begins, the model reads the start token instead of the last character before it, from a zero
state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.corpus.text import Text
from charlm.corpus.windows import Window, walk
from charlm.inspection.gates import GateCounter, LayerUse
from charlm.model.cells import CELLS, State, iter_steps
from charlm.model.device import no_tf32, to_device
from charlm.model.language_model import CharacterModel, Predictions, eval_mode

CHUNK = 256  # steps of one window; the traces do not depend on it
NUM_NEXT = 5  # likeliest next characters that are kept
STATES = ("hidden", "cell")  # the names of the parts of a state, in their order

Values = NDArray[np.float32]
OnProgress = Callable[[int], object]  # is told the characters read since it was told last
Units = Mapping[int, Sequence[int]]  # by layer; both counted from 0


def signal_names(cell: str) -> tuple[str, ...]:
    """What can be traced in a cell of this kind: its gates, then its states.

    The candidate of a simple recurrent network is its hidden state, and is not traced twice.
    """
    gates = CELLS[cell].gate_names
    return (*(gates if len(gates) > 1 else ()), *reversed(STATES[: CELLS[cell].num_states]))


def memory_name(cell: str) -> str:
    """The state that carries a cell's memory: the cell state of an LSTM, the hidden state of the others."""
    return STATES[CELLS[cell].num_states - 1]


@dataclass(frozen=True)
class LayerTrace:
    """One layer's ``signals``, by name: each ``(character, unit)``. ``start``: those of the start token, ``(unit,)``.

    ``units``: the indices, from 0, of the units that are kept; ``use``: of the gates of all units.
    """

    units: NDArray[np.int64]
    signals: dict[str, Values]
    start: dict[str, Values]
    use: LayerUse


@dataclass(frozen=True)
class Trace:
    """What a model of this kind of ``cell`` does at each of these ``characters``.

    ``log_probabilities``, in nats, and ``ranks`` (1: the likeliest) are those of each character given the ones before
    it. ``next_ids`` and ``next_probabilities`` are of the likeliest characters after it, the likeliest first:
    ``(character, 5)``. ``resets``: true where another document begins after a character.
    """

    cell: str
    hidden_size: int
    characters: list[str]
    layers: tuple[LayerTrace, ...]
    log_probabilities: NDArray[np.float64]
    ranks: NDArray[np.int64]
    next_ids: NDArray[np.int64]
    next_probabilities: Values
    resets: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def signal_names(self) -> tuple[str, ...]:
        return tuple(self.layers[0].signals)

    def signal(self, name: str) -> Values:
        """A gate or state of all units that are kept: ``(layer, character, unit)``."""
        return np.stack([layer.signals[name] for layer in self.layers])

    def memory(self) -> list[Values]:
        """The state that carries the memory, layer by layer: ``(character, unit)``."""
        return [layer.signals[memory_name(self.cell)] for layer in self.layers]

    @cached_property
    def bits_per_character(self) -> float:
        return float(-self.log_probabilities.mean() / np.log(2))


@dataclass
class _LayerRecorder:
    """Collects one layer's signals, window by window."""

    units: NDArray[np.int64]
    names: Sequence[str]
    counter: GateCounter
    parts: dict[str, list[Values]]

    def add(self, signals: dict[str, Tensor], is_first: bool) -> None:
        for name in self.names:
            self.parts[name].append(signals[name].cpu().numpy()[:, self.units])
        self.counter.add({name: values[int(is_first) :] for name, values in signals.items()})  # without the start token

    def result(self) -> LayerTrace:
        whole = {name: np.concatenate(self.parts.pop(name)) for name in self.names}
        return LayerTrace(
            self.units,
            {name: values[1:] for name, values in whole.items()},
            {name: values[0] for name, values in whole.items()},
            self.counter.result(),
        )


@torch.inference_mode()
def trace_text(
    model: CharacterModel,
    text: Text,
    alphabet: Sequence[str],
    names: Sequence[str] | None = None,
    units: Units | None = None,
    on_progress: OnProgress = lambda characters: None,
) -> Trace:
    """Read a text and record these signals of these units; without ``names`` all signals, without ``units`` all units.

    ``alphabet``: the characters of the text's stored ids. Always in fp32, each character after all that precede it.
    """
    settings = model.settings
    names = signal_names(settings.cell) if names is None else names
    recorders = [
        _LayerRecorder(
            np.arange(settings.hidden_size) if units is None else np.array(units.get(layer, ()), dtype=np.int64),
            names,
            GateCounter(CELLS[settings.cell].gate_names, settings.hidden_size),
            {name: [] for name in names},
        )
        for layer in range(settings.num_layers)
    ]
    nats, ranks, next_ids, next_probabilities, resets = [], [], [], [], []
    state = model.zero_state(1)
    with eval_mode(model):
        # One step more than there are characters: the last one is read too
        for window in walk(text, np.zeros(1, np.int64), len(text) + 1, CHUNK):
            with no_tf32():
                layers, outputs, state = _trace_window(model, window, state)
                predictions = _predict(model, window, outputs, state)
            for recorder, signals in zip(recorders, layers, strict=True):
                recorder.add(signals, window.new_lanes is not None)
            target_nats, target_ranks = _score(window, predictions, text)
            nats.append(target_nats)
            ranks.append(target_ranks)
            likeliest = predictions.logits[:, 0].softmax(-1).topk(min(NUM_NEXT, model.vocabulary_size))
            next_ids.append(likeliest.indices.cpu().numpy())
            next_probabilities.append(likeliest.values.cpu().numpy())
            resets.append(np.zeros(len(window.inputs), bool) if window.resets is None else window.resets[:, 0])
            on_progress(len(window.inputs))
    return Trace(
        settings.cell,
        settings.hidden_size,
        [alphabet[id_] for id_ in text.raw_ids.tolist()],
        tuple(recorder.result() for recorder in recorders),
        -np.concatenate(nats)[:-1],
        np.concatenate(ranks)[:-1],
        np.concatenate(next_ids)[1:],
        np.concatenate(next_probabilities)[1:],
        np.concatenate(resets)[1:],
    )


def _trace_window(model: CharacterModel, window: Window, state: State) -> tuple[list[dict[str, Tensor]], Tensor, State]:
    """All signals of each layer, ``(time, hidden)``; the last layer's outputs, ``(time, 1, hidden)``; the new state."""
    device = model.output_bias.device
    outputs = model.embed(to_device(window.inputs, device)).vectors()
    resets = None if window.resets is None else to_device(window.resets, device)
    cell, signals, states = CELLS[model.settings.cell], [], []
    for index, layer in enumerate(model.recurrent.layers):
        layer_state = tuple(part[index] for part in state)
        steps = list(
            iter_steps(cell, outputs, layer_state, layer.weight_ih, layer.weight_hh, layer.bias, resets)  # type: ignore[arg-type]
        )
        gates = {name: torch.cat([getattr(gates, name) for gates, _ in steps]) for name in cell.gate_names}
        parts = [torch.stack(part) for part in zip(*(new_state for _, new_state in steps), strict=True)]
        signals.append({**gates, **{name: part[:, 0] for name, part in zip(STATES, parts, strict=False)}})
        states.append(steps[-1][1])
        outputs = parts[0]
    return signals, outputs, tuple(torch.stack(part) for part in zip(*states, strict=True))


def _predict(model: CharacterModel, window: Window, outputs: Tensor, state: State) -> Predictions:
    logits = functional.linear(outputs, model.output_matrix(), model.output_bias)
    return Predictions(logits, to_device(window.targets, logits.device), window.num_targets, state)


def _score(window: Window, predictions: Predictions, text: Text) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Nats and rank of each target, ``(time,)``; both mean nothing at the one after the text's end."""
    nats = predictions.losses()[:, 0].cpu().numpy().astype(np.float64)
    targets = predictions.targets.clamp(min=0)
    if text.vocabulary.unknown_id is not None:
        nats[window.targets[:, 0] == text.vocabulary.unknown_id] += text.vocabulary.unknown_penalty_nats
    ranks = 1 + (predictions.logits > predictions.logits.gather(-1, targets[:, :, None])).sum(-1)
    return nats, ranks[:, 0].cpu().numpy()


def keep_units(trace: Trace, units: Units) -> Trace:
    """The same trace with these units only. All of them must be in it."""
    layers = []
    for index, layer in enumerate(trace.layers):
        kept = np.array(units.get(index, ()), dtype=np.int64)
        where = np.searchsorted(layer.units, kept)
        signals = {name: values[:, where] for name, values in layer.signals.items()}
        start = {name: values[where] for name, values in layer.start.items()}
        layers.append(LayerTrace(kept, signals, start, layer.use))
    return replace(trace, layers=tuple(layers))
