"""Resets inside a window: the stretches between them, side by side, as the kernels take texts of different lengths.

No kernel knows a reset in the middle of a sequence. But what comes after one has nothing to do with what came before,
so it may as well be a lane of its own: a window of short documents is a few steps of many lanes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.cells import State
from charlm.model.device import on_device


class Packing:
    """The stretches of a window, longest first, their steps in turn: rows as in ``torch.nn.utils.rnn.PackedSequence``.

    ``resets``: ``(time, lane)``, true where the state is zero before the step.
    """

    def __init__(self, resets: NDArray[np.bool_], device: torch.device) -> None:
        time, lanes = resets.shape
        begins = resets.copy()
        begins[0] = True
        first = np.flatnonzero(begins.T)  # of each stretch, counted lane after lane
        lengths = np.diff(first, append=time * lanes)
        longest_first = np.argsort(-lengths, kind="stable")
        first, lengths = first[longest_first], lengths[longest_first]
        goes_on = np.arange(lengths[0])[:, None] < lengths  # (step, stretch)
        lane, step = np.divmod((first + np.arange(lengths[0])[:, None])[goes_on], time)
        last = np.empty(lanes, dtype=np.int64)  # the stretch that a lane ends with
        ends = first + lengths == (first // time + 1) * time
        last[first[ends] // time] = np.flatnonzero(ends)

        self.lengths = torch.from_numpy(
            goes_on.sum(1)
        )  # stretches that go on at each step; the kernels want it on the CPU
        self.rows = on_device(step * lanes + lane, device)  # of the window's, for each packed one
        self.lanes = on_device(first // time, device)
        self.is_fresh = on_device(resets.T.ravel()[first], device)[:, None]
        self.last = on_device(last, device)

    def pack(self, inputs: Tensor) -> Tensor:
        """``(time, lane, …)`` → ``(row, …)``."""
        return inputs.flatten(0, 1)[self.rows]

    def unpack(self, rows: Tensor, lanes: int) -> Tensor:
        """``(row, …)`` → ``(time, lane, …)``."""
        return torch.empty_like(rows).index_copy(0, self.rows, rows).view(-1, lanes, *rows.shape[1:])

    def begin(self, state: State) -> State:
        """From the state of the lanes, ``(lane, hidden)``, to that of the stretches: theirs, or zero after a reset."""
        return tuple(part[self.lanes].masked_fill(self.is_fresh, 0) for part in state)

    def end(self, state: State) -> State:
        """From the state after the stretches to that of the lanes."""
        return tuple(part[self.last] for part in state)
