"""A trace as numpy arrays in a file, for notebooks: ``docs/formats.md`` describes them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.inspection.traces import Trace


def to_npz(trace: Trace, labels: Sequence[str]) -> bytes:
    """All signals of a trace that has all units. ``labels``: of the model's ids."""
    in_memory = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {name: trace.signal(name) for name in trace.signal_names}
    arrays |= {f"start_{name}": np.stack([layer.start[name] for layer in trace.layers]) for name in trace.signal_names}
    arrays |= {
        "characters": np.array([ord(character) for character in trace.characters], dtype=np.uint32),
        "log_probabilities": trace.log_probabilities,
        "ranks": trace.ranks,
        "next_ids": trace.next_ids,
        "next_probabilities": trace.next_probabilities,
        "resets": trace.resets,
        "labels": np.array([ord(label) for label in labels], dtype=np.uint32),
    }
    np.savez(in_memory, allow_pickle=False, **arrays)
    return in_memory.getvalue()
