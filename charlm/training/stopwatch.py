"""Training time: seconds inside training steps, without evaluating, saving and sampling."""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from charlm.model.device import synchronize

STOPPED_SECONDS = 60.0  # a step longer than this, and than this many median ones, was not only training:
STOPPED_LAPS = 20  # the process was stopped (Ctrl-Z, a suspended machine)
REMEMBERED_LAPS = 101


class Stopwatch:
    """Measures training time, except inside ``paused``; starts with ``seconds`` of earlier processes."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self.seconds = seconds
        self.started_at: float | None = None
        self.lap_started = 0.0
        self.laps: deque[float] = deque(maxlen=REMEMBERED_LAPS)

    def start(self) -> None:
        self.started_at = self.lap_started = time.perf_counter()

    def end_lap(self) -> float:
        """Call after each step, or after every n steps. Returns the seconds of a gap, else 0.

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
        """Exclude other work. Queued GPU steps are finished and counted first."""
        synchronize(self.device)
        self.seconds, self.started_at = self.read(), None
        try:
            yield
        finally:
            self.start()
