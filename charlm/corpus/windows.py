"""The walk through a text: parallel lanes that advance window by window.

Training reads it in :class:`Lanes` (truncated backpropagation through time), evaluation by :func:`walk`. A lane is a
contiguous stretch of the text; each window continues where the one before ended, in every lane.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from charlm.corpus.text import Positions, Text
from charlm.corpus.variation import NO_VARIATION, Variation

IGNORE_INDEX = -100  # target that is not counted; the value that torch uses


@dataclass(frozen=True)
class Window:
    """What one forward pass reads. ``inputs`` and ``targets``: ``(time, lane)``.

    ``new_lanes``: ``(lane,)``, true where the state must be zero before the window; ``resets``: ``(time, lane)``, true
    where it must be zero before this step, because a document begins there. ``None``: nowhere. ``number``: the window's
    position in training.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    new_lanes: NDArray[np.bool_] | None
    resets: NDArray[np.bool_] | None
    num_targets: int  # without ignored ones
    is_predicted: bool = True  # false in the warmup
    number: int | None = None
    first_lane: int = 0  # the number of its first lane among all


def read_window(text: Text, lane_starts: Positions, steps: range, warmup: int = 0) -> Window:
    """The window of a range of steps, for lanes that start at these positions of the text.

    Step 0 predicts a lane's first character: from the start token, or where there is a ``warmup``, after that many
    characters before it, which are the steps below 0. They are read but not predicted, like padding beyond the end of
    the text: their targets are ``IGNORE_INDEX``. A lane at the start of the text begins with the start token, too.
    """
    # Positions that are read and, one step later, predicted
    positions = np.arange(steps.start - 1, steps.stop)[:, None] + lane_starts
    ids = text[np.clip(positions, 0, len(text) - 1)]
    predicted = positions[1:]
    inputs, targets = ids[:-1], np.where(predicted < len(text), ids[1:], IGNORE_INDEX)
    if steps.start < 0:
        targets[: -steps.start] = IGNORE_INDEX
    resets = text.document_start_mask(predicted)
    inputs[predicted <= 0] = text.vocabulary.start_id
    if resets is not None:
        inputs[resets] = text.vocabulary.start_id
    new_lanes = None
    if steps.start == -warmup:
        new_lanes = np.ones(len(lane_starts), dtype=np.bool_)
        if not warmup:
            inputs[0] = text.vocabulary.start_id
    elif steps.start == 0 and not lane_starts.all():  # a lane at the text's start had nothing to warm up on
        new_lanes = lane_starts == 0
    return Window(inputs, targets, new_lanes, resets, int(np.count_nonzero(targets != IGNORE_INDEX)), steps.start >= 0)


def walk(text: Text, lane_starts: Positions, lane_length: int, chunk: int, warmup: int = 0) -> Iterator[Window]:
    """Windows of at most ``chunk`` steps through lanes of this length; no window crosses the end of the warmup."""
    for first, last in ((-warmup, 0), (0, lane_length)):
        for start in range(first, last, chunk):
            yield read_window(text, lane_starts, range(start, min(start + chunk, last)), warmup)


def count_lanes(characters: int, batch_size: int, sequence_length: int) -> int:
    """The lanes in use: fewer than ``batch_size`` if the text is too short for a full window in each."""
    return min(batch_size, characters // sequence_length)


class Lanes:
    """A text of n ids as ``batch_size`` lanes of ⌈n / batch_size⌉ characters; the last ones are padded.

    ``divide``: from the number of all lanes to the ``own`` ones of this process, whose windows it reads. The
    ``num_targets`` of such a window are those of all lanes.

    If the text is too short for a full window per lane, there are fewer lanes. Windows are numbered consecutively
    across epochs, so one integer is the position in training.

    ``variation``: windows of different lengths, and random resets. The start of a window is moved, and with it the end
    of the previous one. So an epoch has as many windows as without, each character is still predicted once in it, and a
    length cannot differ from ``sequence_length`` by more than twice the move.
    """

    def __init__(
        self,
        text: Text,
        batch_size: int,
        sequence_length: int,
        variation: Variation = NO_VARIATION,
        divide: Callable[[int], range] = range,
    ) -> None:
        assert len(text) >= sequence_length, "the corpus is checked when it is loaded"
        self.text = text
        self.sequence_length = sequence_length
        self.batch_size = count_lanes(len(text), batch_size, sequence_length)
        self.lane_length = -(-len(text) // self.batch_size)
        self.own = divide(self.batch_size)
        self.starts = np.arange(self.batch_size) * self.lane_length
        self.variation = variation
        self.windows_per_epoch = -(-self.lane_length // sequence_length)

    def window(self, number: int) -> Window:
        """The window of that number; numbers continue through the epochs."""
        index = number % self.windows_per_epoch
        is_last = index == self.windows_per_epoch - 1
        steps = range(self._start(number), self.lane_length if is_last else self._start(number + 1))
        window = read_window(self.text, self.starts[self.own.start : self.own.stop], steps)
        new_lanes = window.new_lanes
        if (resets := self.variation.reset_lanes(number, self.batch_size)) is not None:
            own_resets = resets[self.own.start : self.own.stop]
            new_lanes = own_resets if new_lanes is None else own_resets | new_lanes
            window.inputs[0, own_resets] = self.text.vocabulary.start_id
        return replace(
            window,
            new_lanes=new_lanes,
            num_targets=self._count_targets(steps),
            number=number,
            first_lane=self.own.start,
        )

    def relative_length(self, windows: Sequence[Window]) -> float:
        """How long these windows are on average, divided by ``sequence_length``; 1 if lengths do not vary.

        The learning rate is scaled by it, so that a character counts as much in a short window as in a long one
        (Merity, Keskar and Socher 2018, section 4.1).
        """
        if not self.variation.length:
            return 1.0
        return sum(len(window.inputs) for window in windows) / (len(windows) * self.sequence_length)

    def _count_targets(self, steps: range) -> int:
        """The targets in all lanes that are before the end of the text."""
        return int((len(self.text) - steps.start - self.starts).clip(0, len(steps)).sum())

    def _start(self, number: int) -> int:
        """Where a window starts in its lane."""
        index = number % self.windows_per_epoch
        if not index:
            return 0
        start = index * self.sequence_length + self.variation.shift(number, self.sequence_length)
        return min(start, self.lane_length - 1)  # the last window may be short
