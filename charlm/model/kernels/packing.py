"""Resets within a window: the stretches between them become parallel sequences of different lengths.

torch's kernels do not support resets within a sequence. Text after a reset is independent of the text before it, so it
is processed as a separate lane: a window of short documents becomes a few steps of many lanes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.cells import State
from charlm.model.device import to_device


class Packing:
    """The stretches of a window, longest first, their steps in turn: rows as in ``torch.nn.utils.rnn.PackedSequence``.

    ``resets``: ``(time, lane)``, true where the state is zero before the step.
    """

    def __init__(self, resets: NDArray[np.bool_], device: torch.device) -> None:
        time, self.num_lanes = resets.shape
        begins = resets.copy()
        begins[0] = True
        first = np.flatnonzero(begins.T)  # of each stretch, counted lane after lane
        lengths = np.diff(first, append=time * self.num_lanes)
        longest_first = np.argsort(-lengths, kind="stable")
        first, lengths = first[longest_first], lengths[longest_first]
        active = np.arange(lengths[0])[:, None] < lengths  # (step, stretch)
        lane, step = np.divmod((first + np.arange(lengths[0])[:, None])[active], time)
        last_stretch = np.empty(self.num_lanes, dtype=np.int64)  # of each lane
        ends = first + lengths == (first // time + 1) * time
        last_stretch[first[ends] // time] = np.flatnonzero(ends)

        self.lengths = torch.from_numpy(active.sum(1))  # at each step; the operators expect it on the CPU
        self.rows = to_device(step * self.num_lanes + lane, device)  # of the window's, for each packed one
        self.lanes = to_device(first // time, device)
        self.starts_from_zero = to_device(resets.T.ravel()[first], device)[:, None]
        self.last_stretch = to_device(last_stretch, device)

    def pack(self, inputs: Tensor) -> Tensor:
        """``(time, lane, …)`` → ``(row, …)``."""
        return inputs.flatten(0, 1)[self.rows]

    def unpack(self, rows: Tensor) -> Tensor:
        """``(row, …)`` → ``(time, lane, …)``."""
        return torch.empty_like(rows).index_copy(0, self.rows, rows).view(-1, self.num_lanes, *rows.shape[1:])

    def gather_states(self, state: State) -> State:
        """From the state of the lanes, ``(lane, hidden)``, to that of the stretches: theirs, or zero after a reset."""
        return tuple(part[self.lanes].masked_fill(self.starts_from_zero, 0) for part in state)

    def scatter_states(self, state: State) -> State:
        """From the state after the stretches to that of the lanes."""
        return tuple(part[self.last_stretch] for part in state)
