"""Training time: seconds inside training steps, without evaluating, saving and sampling."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Runs from ``start`` on, and stands still inside ``paused``. Starts from ``seconds`` of an earlier process."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self.device = device
        self.seconds = seconds
        self.since: float | None = None

    def start(self) -> None:
        self.since = time.perf_counter()

    def read(self) -> float:
        return self.seconds + (time.perf_counter() - self.since if self.since is not None else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work that is no training. A GPU first finishes the steps that were given to it: they count."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds, self.since = self.read(), None
        try:
            yield
        finally:
            self.start()
