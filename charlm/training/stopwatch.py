"""Training time: seconds inside training steps, without evaluating, saving and sampling."""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from charlm.model.device import synchronize

STOPPED_SECONDS = 60.0  # a step that takes longer than this, and than so many of the usual ones, was not all training:
STOPPED_LAPS = 20  # the process was stopped (Ctrl-Z, a suspended machine)
REMEMBERED_LAPS = 101


class Stopwatch:
    """Runs from ``start`` on, and stands still inside ``paused``. Starts from ``seconds`` of an earlier process."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self.seconds = seconds
        self.started_at: float | None = None
        self.lap_started = 0.0
        self.laps: deque[float] = deque(maxlen=REMEMBERED_LAPS)

    def start(self) -> None:
        self.started_at = self.lap_started = time.perf_counter()

    def end_lap(self) -> float:
        """To be called after each step, or at equal numbers of them: returns the seconds of a gap, else 0.

        A gap is a lap during which the process must have been stopped. It counts as long as the median lap.
        """
        now = time.perf_counter()
        seconds, self.lap_started = now - self.lap_started, now
        median = statistics.median(self.laps) if self.laps else seconds
        if seconds <= max(STOPPED_SECONDS, STOPPED_LAPS * median):
            self.laps.append(seconds)
            return 0.0
        self.seconds -= seconds - median
        return seconds - median

    def read(self) -> float:
        return self.seconds + (time.perf_counter() - self.started_at if self.started_at is not None else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work that is no training. A GPU first finishes the steps that were given to it: they count."""
        synchronize(self.device)
        self.seconds, self.started_at = self.read(), None
        try:
            yield
        finally:
            self.start()
