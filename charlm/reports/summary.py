"""What the page of an inspection says about layers and units, as lines of text."""

from collections.abc import Iterator, Sequence

import numpy as np

from charlm.inspection.traces import Trace
from charlm.inspection.tracking import TrackedProperty


def iter_summary(trace: Trace, tracked: Sequence[TrackedProperty], unit: str) -> Iterator[str]:
    """The units that track something, how saturated the gates are, and the time constants."""
    yield "Units that track a property of the text, chosen on its first half, scored on its second:"
    for each in tracked:
        units = "  ".join(f"{u.layer}:{u.unit}{'↓' if u.is_inverted else ''} {u.score:.2f}" for u in each.units)
        yield f"  {each.name:<20} {'R²' if each.is_number else 'ROC area':<8}  {units}"
    if not tracked:
        yield f"  none: no property occurs at 20 {unit}s of each half"
    uses = [layer.use for layer in trace.layers]
    if not uses[0].gates:
        return
    yield "\nGates: closed (below 0.1) and open (above 0.9), mean of all units"
    for number, use in enumerate(uses, 1):
        for name, gate in use.gates.items():
            yield f"  layer {number}  {name:<7} closed {gate.closed.mean():4.0%}  open {gate.open.mean():4.0%}"
    yield f"\nTime constants in {unit}s, from each unit's mean gate: how long until 1/e of its memory is left"
    for number, use in enumerate(uses, 1):
        constants = use.time_constants
        assert constants is not None
        longest = int(np.argmax(constants))
        at = f"{number}:{longest + 1}"
        yield f"  layer {number}  median {np.median(constants):.1f}, longest {constants[longest]:.1f} ({at})"
