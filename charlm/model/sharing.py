"""How many threads compute: as many as help, and fewer while other programs need the processors.

A product that is split among threads waits for the last of them. So one thread that has to share its processor holds
up all others, and two threads on two processors, one of them taken, are slower than one thread.
"""

import math
import os
from collections.abc import Callable

import torch

from charlm.config import ModelSettings
from charlm.machine import LoadMeter, count_processors

MULTIPLICATIONS_PER_THREAD = {"bf16": 2_000_000, "fp32": 500_000}  # of one time step: a second thread helps from twice
TORCH_THREADS = torch.get_num_threads()  # before anything here has changed it: one per core, or OMP_NUM_THREADS
LOWER_AFTER_SECONDS = 2.0  # of other work: shorter bursts are not worth it
RAISE_AFTER_SECONDS = 10.0  # of quiet
ROUND_DOWN, ROUND_UP = 0.5, 0.3  # added to the free processors before they are cut to a whole number


def is_fixed(threads: int) -> bool:
    """Whether the user has chosen the number of threads, by ``--threads`` or by ``OMP_NUM_THREADS``."""
    return bool(threads or os.environ.get("OMP_NUM_THREADS"))


def choose_threads(threads: int, settings: ModelSettings | None = None, lanes: int = 1, precision: str = "fp32") -> int:
    """The number of threads: what the user has chosen, else as many as there are processors and as help.

    With ``settings``, that of a training step: small products take longer to hand out than to compute.
    """
    if threads:
        return threads
    if is_fixed(threads):
        return TORCH_THREADS
    max_threads = min(TORCH_THREADS, count_processors())
    if settings is None:
        return max_threads
    gates = 4 * settings.hidden_size  # of an LSTM; what the others have less does not matter here
    return max(1, min(max_threads, lanes * settings.hidden_size * gates // MULTIPLICATIONS_PER_THREAD[precision]))


class ThreadBalancer:
    """Takes threads away while other programs keep processors busy, and gives them back when the machine is quiet.

    ``threads`` are those of a quiet machine. One that is ``fixed`` only watches. Decided from the work of other
    programs alone, so two trainings side by side settle at half of the machine each.
    """

    def __init__(
        self, threads: int, fixed: bool, processors: int | None = None, meter: LoadMeter | None = None
    ) -> None:
        self.max_threads = self.threads = threads
        self.fixed = fixed
        self.processors = processors or count_processors()
        self.meter = meter or LoadMeter()
        self.is_slowed = False  # other programs keep more processors busy than this one leaves free

    def balance(self) -> bool:
        """Look at the load, now and then, and set torch's threads. Returns whether their number has changed."""
        seconds = self.meter.seconds
        if seconds < LOWER_AFTER_SECONDS:
            return False
        free = self.processors - self.meter.read()
        self.is_slowed = free + ROUND_DOWN < self.max_threads
        wanted = self._clamp(free + ROUND_DOWN)
        if wanted >= self.threads:
            if seconds < RAISE_AFTER_SECONDS:
                return False
            wanted = max(self.threads, self._clamp(free + ROUND_UP))
        self.meter.restart()
        if self.fixed or wanted == self.threads:
            return False
        self.threads = wanted
        torch.set_num_threads(wanted)
        return True

    def watch(self, on_progress: Callable[[int], object]) -> Callable[[int], object]:
        """``on_progress`` with a look at the load each time it is called."""

        def balanced_progress(count: int) -> object:
            self.balance()
            return on_progress(count)

        return balanced_progress

    def _clamp(self, processors: float) -> int:
        return max(1, min(self.max_threads, math.floor(processors)))
