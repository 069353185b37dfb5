"""How a layer uses its gates: how often they are closed or open, and how long the cell remembers.

A gate is *closed* below 0.1 and *open* above 0.9 (left- and right-saturated in Karpathy, Johnson and Li 2015,
*Visualizing and Understanding Recurrent Networks*, section 4.2). A cell that keeps a share f of its state at every step
loses it exponentially: after τ = −1 / ln f steps, 1/e of it is left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CLOSED_BELOW = 0.1
OPEN_ABOVE = 0.9
KEEPING_GATES = ("forget", "update")  # of an LSTM and a GRU: the share of the old state that stays
MAX_TIME_CONSTANT = 1e6  # characters; of a gate that never closes it would be infinite

PerUnit = NDArray[np.float64]  # (unit,)


@dataclass(frozen=True)
class GateUse:
    """``closed`` and ``open``: the share of characters at which a unit's gate is; ``mean``: of the gate's values."""

    closed: PerUnit
    open: PerUnit
    mean: PerUnit


@dataclass(frozen=True)
class LayerUse:
    """``gates``: by name, without the candidate, which is no gate. A simple recurrent network has none."""

    gates: dict[str, GateUse]

    @property
    def time_constants(self) -> PerUnit | None:
        """Characters after which 1/e of each unit's state is left; ``None`` where no gate decides that."""
        for name in KEEPING_GATES:
            if name in self.gates:
                mean = np.clip(self.gates[name].mean, 1e-12, 1 - 1 / MAX_TIME_CONSTANT)
                return -1 / np.log(mean)
        return None


class GateCounter:
    """Adds up a layer's gates over the windows of a text."""

    def __init__(self, gate_names: tuple[str, ...], hidden_size: int) -> None:
        self.steps = 0
        self.sums = {name: np.zeros((3, hidden_size)) for name in gate_names if name != "candidate"}

    def add(self, gates: dict[str, Tensor]) -> None:
        """``gates``: by name, each ``(time, hidden)``."""
        for name, sums in self.sums.items():
            values = gates[name]
            self.steps += len(values) if name == next(iter(self.sums)) else 0
            for row, part in enumerate((values < CLOSED_BELOW, values > OPEN_ABOVE, values)):
                sums[row] += part.sum(0).cpu().numpy()

    def result(self) -> LayerUse:
        return LayerUse({name: GateUse(*(sums / max(1, self.steps))) for name, sums in self.sums.items()})
