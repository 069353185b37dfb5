"""A page that shows what happens inside a model while it reads a text, for people who have never seen an LSTM.

The page holds numbers of 8 bits: for each layer and signal a block ``(unit, 1 + character)``, the start token first.
All units are in it while they fit; of a longer text only some are: see :func:`choose_units`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelSettings
from charlm.corpus.text import Text
from charlm.inspection.properties import text_for_properties
from charlm.inspection.traces import (
    LayerTrace,
    OnProgress,
    Trace,
    Units,
    keep_units,
    memory_name,
    signal_names,
    trace_text,
)
from charlm.inspection.tracking import TrackedProperty, rank_units
from charlm.model.language_model import CharacterModel
from charlm.records import to_json
from charlm.reports.page import (
    Writable,
    data_block,
    encode_page,
    end_page,
    json_block,
    read_asset,
    show_character,
    start_page,
)

MAX_PAGE_BYTES = 16 << 20
RESERVED_BYTES = 1 << 19  # of these, for all that is not traces: scripts, the text, the overview of the layers
MAX_UNITS = 64  # of a longer text
BYTES_PER_CHARACTER = 26  # of what is stored once for each: bits and rank, the likeliest next, the character itself
MAX_BITS = 655.35  # hundredths, in 16 bits
MAX_RANK = 65535
SCRIPTS = ("data", "cells", "text", "step", "overview", "main")
SIGNED = 127  # steps from 0 to the largest value of either sign


@dataclass(frozen=True)
class UnitName:
    """``layer`` and ``unit`` counted from 1, as people do."""

    layer: int
    unit: int


@dataclass(frozen=True)
class PageLayer:
    """``units``: those in the page, counted from 1; ``cell_scales``: the largest size of each one's cell state."""

    units: list[int]
    cell_scales: list[float]
    closed: dict[str, list[float]]
    open: dict[str, list[float]]
    time_constants: list[float] | None


@dataclass(frozen=True)
class PageContent:
    """What the script reads; its keys are these names."""

    title: str
    unit: str  # character or byte
    cell: str
    hidden_size: int
    signals: list[str]
    memory: str
    text: str
    labels: list[str]  # of the model's ids
    bits_per_character: float
    resets: list[int]
    layers: list[PageLayer]
    tracked: list[TrackedProperty]
    max_characters: int  # of a text whose page holds all units
    first: UnitName
    first_signal: str


def max_characters(num_units: int, num_signals: int) -> int:
    """Of how many characters a page can hold so many units."""
    return (MAX_PAGE_BYTES - RESERVED_BYTES) * 3 // 4 // (num_units * num_signals + BYTES_PER_CHARACTER)


def trace_for_page(
    model: CharacterModel,
    text: Text,
    alphabet: Sequence[str],
    named: Sequence[UnitName],
    wants_all_units: bool = False,
    on_progress: OnProgress = lambda characters: None,
) -> tuple[Trace, Trace, list[TrackedProperty]]:
    """The trace for a page, the trace of all that was recorded, and which units track what.

    A text whose traces do not all fit is read twice, so that they need not all be kept in memory; unless all units are
    wanted for something else.
    """
    settings = model.settings
    fits = holds_all_units(len(text), settings)
    names = None if fits or wants_all_units else [memory_name(settings.cell)]
    trace = trace_text(model, text, alphabet, names, on_progress=on_progress)
    tracked = rank_units(trace.memory(), text_for_properties(trace.characters, text.vocabulary.unit))
    if fits:
        return trace, trace, tracked
    units = choose_units(named, tracked, settings.hidden_size)
    if wants_all_units:
        return keep_units(trace, units), trace, tracked
    of_page = trace_text(model, text, alphabet, units=units, on_progress=on_progress)
    return of_page, of_page, tracked


def holds_all_units(num_characters: int, settings: ModelSettings) -> bool:
    """Whether the page of so many characters holds all units of such a model."""
    num_units = settings.hidden_size * settings.num_layers
    return num_characters <= max_characters(num_units, len(signal_names(settings.cell)))


def choose_units(named: Sequence[UnitName], tracked: Sequence[TrackedProperty], hidden_size: int) -> Units:
    """The units for the page of a text that is too long for all: those named, then of each property the best ones,
    the second best ones, …; where nothing is tracked, the first ones of the first layer.
    """
    ranked = [
        UnitName(unit.layer, unit.unit) for row in zip_longest(*(p.units for p in tracked)) for unit in row if unit
    ]
    fallback = [] if ranked or named else [UnitName(1, index + 1) for index in range(min(MAX_UNITS, hidden_size))]
    chosen = list(dict.fromkeys([*named, *ranked, *fallback]))[:MAX_UNITS]
    layers = sorted({unit.layer for unit in chosen})
    return {layer - 1: sorted(unit.unit - 1 for unit in chosen if unit.layer == layer) for layer in layers}


def write_page(
    file: Writable,
    title: str,
    unit: str,
    trace: Trace,
    labels: Sequence[str],
    tracked: Sequence[TrackedProperty],
    first: UnitName | None = None,
    first_signal: str | None = None,
) -> None:
    """Write the page of a trace. ``first``: the unit and signal that it shows when it is opened."""
    hidden_size = trace.hidden_size
    content = PageContent(
        title=title,
        unit=unit,
        cell=trace.cell,
        hidden_size=hidden_size,
        signals=list(signal_names(trace.cell)),
        memory=memory_name(trace.cell),
        text="".join(map(show_character, trace.characters)),
        labels=[show_character(label) if len(label) == 1 else label for label in labels],
        bits_per_character=trace.bits_per_character,
        resets=np.flatnonzero(trace.resets).tolist(),
        layers=[_page_layer(layer) for layer in trace.layers],
        tracked=list(tracked),
        max_characters=max_characters(hidden_size * len(trace.layers), len(signal_names(trace.cell))),
        first=first or _first_unit(trace, tracked),
        first_signal=first_signal or memory_name(trace.cell),
    )
    script = "\n".join(['"use strict";', *(read_asset(f"inspection/{name}.js") for name in SCRIPTS)])
    file.write(encode_page(start_page(title, read_asset("inspection/page.css"), script)))
    file.write(encode_page(read_asset("inspection/page.html")))
    file.write(encode_page(json_block("content", to_json(content))))
    for block in _data_blocks(trace):
        file.write(block.encode())
    file.write(encode_page(end_page(script)))


def _first_unit(trace: Trace, tracked: Sequence[TrackedProperty]) -> UnitName:
    """A unit that is worth a look: the best that is in the page."""
    kept = {(index + 1, int(unit) + 1) for index, layer in enumerate(trace.layers) for unit in layer.units}
    best = [(unit.layer, unit.unit) for each in tracked for unit in each.units]
    return UnitName(*next((unit for unit in best if unit in kept), min(kept)))


def _page_layer(layer: LayerTrace) -> PageLayer:
    constants = layer.use.time_constants
    return PageLayer(
        units=(layer.units + 1).tolist(),
        cell_scales=_rounded(_cell_scales(layer)),
        closed={name: _rounded(gate.closed) for name, gate in layer.use.gates.items()},
        open={name: _rounded(gate.open) for name, gate in layer.use.gates.items()},
        time_constants=None if constants is None else _rounded(constants, 2),
    )


def _rounded(values: NDArray[np.floating], digits: int = 4) -> list[float]:
    rounded: list[float] = np.round(values.astype(np.float64), digits).tolist()
    return rounded


def _cell_scales(layer: LayerTrace) -> NDArray[np.float64]:
    """The largest size of each unit's cell state; rounded up, so that no value is beyond it."""
    if "cell" not in layer.signals:
        return np.empty(0)
    largest = np.maximum(np.abs(layer.signals["cell"]).max(0), np.abs(layer.start["cell"]))
    scales: NDArray[np.float64] = np.ceil(np.maximum(largest.astype(np.float64), 1e-3) * 1e4) / 1e4
    return scales


def _data_blocks(trace: Trace) -> Iterator[str]:
    bits = np.minimum(-trace.log_probabilities / np.log(2), MAX_BITS)
    yield data_block("bits", np.round(100 * bits).astype(np.uint16))
    yield data_block("ranks", np.minimum(trace.ranks, MAX_RANK).astype(np.uint16))
    yield data_block("next-ids", trace.next_ids.astype(np.uint16))
    yield data_block("next-probabilities", np.round(trace.next_probabilities * 65535).astype(np.uint16))
    for index, layer in enumerate(trace.layers):
        for name, values in layer.signals.items():
            whole = np.concatenate([layer.start[name][None], values]).T  # (unit, 1 + character)
            yield data_block(f"layer-{index + 1}-{name}", _in_8_bits(name, whole, layer))


def _in_8_bits(name: str, values: NDArray[np.float32], layer: LayerTrace) -> NDArray[np.uint8]:
    """Gates from 0 to 1 as 0 to 255; what may be negative around 127, cell states in the unit's own scale."""
    if name in layer.use.gates:
        return np.round(values * 255).astype(np.uint8)
    scaled = values / _cell_scales(layer)[:, None] if name == "cell" else values
    return (np.round(scaled * SIGNED) + SIGNED).astype(np.uint8)
