"""The number of compute threads: as many as help, and fewer while other programs need the processors.

A matrix multiplication split among threads waits for the slowest. One thread that shares its processor delays all
others, so two threads on two processors, one of them busy, are slower than one thread.
"""

import math
import os
from collections.abc import Callable

import torch

from charlm.config import ModelSettings
from charlm.machine import LoadMeter, count_cores, count_local_processes, count_processors

MULTIPLICATIONS_PER_THREAD = {"bf16": 2_000_000, "fp32": 500_000}  # of one time step: a second thread helps from twice
TORCH_THREADS = torch.get_num_threads()  # torch's default: one per core, or OMP_NUM_THREADS
LOWER_AFTER_SECONDS = 2.0  # of load; shorter bursts are ignored
RAISE_AFTER_SECONDS = 10.0  # of quiet
ROUND_DOWN, ROUND_UP = 0.5, 0.3  # added to the number of free processors before it is rounded down


def is_fixed(threads: int) -> bool:
    """Whether the user chose the number of threads, with ``--threads`` or ``OMP_NUM_THREADS``."""
    return bool(threads or (os.environ.get("OMP_NUM_THREADS") and not _is_set_by_torchrun()))


def _is_set_by_torchrun() -> bool:
    """With several processes, torchrun sets ``OMP_NUM_THREADS`` to 1 if it is not set."""
    return count_local_processes() > 1 and os.environ.get("OMP_NUM_THREADS") == "1"


def choose_threads(threads: int, settings: ModelSettings | None = None, lanes: int = 1, precision: str = "fp32") -> int:
    """The user's number of threads, or as many as there are processors for each process of the run, and as help.

    With ``settings``, limited to what helps in a training step: small matrix multiplications take longer to distribute
    than to compute.
    """
    if threads:
        return threads
    if is_fixed(threads):
        return TORCH_THREADS
    cores = count_cores() if _is_set_by_torchrun() else TORCH_THREADS
    max_threads = max(1, min(cores, count_processors()) // count_local_processes())
    if settings is None:
        return max_threads
    gates = 4 * settings.hidden_size  # of an LSTM; the smaller number of other cells does not matter here
    return max(1, min(max_threads, lanes * settings.hidden_size * gates // MULTIPLICATIONS_PER_THREAD[precision]))


class ThreadBalancer:
    """Reduces threads while other programs are busy, and restores them when the machine is idle.

    ``threads``: the number on an idle machine. With ``fixed``, the load is only observed. The decision depends only on
    the load of other programs, so two concurrent runs settle at half of the machine each.
    """

    def __init__(
        self, threads: int, fixed: bool, processors: int | None = None, meter: LoadMeter | None = None
    ) -> None:
        self.max_threads = self.threads = threads
        self.fixed = fixed
        self.processors = processors or count_processors()
        self.meter = meter or LoadMeter()
        self.is_slowed = False  # other programs need more processors than this one leaves free

    def balance(self) -> bool:
        """Check the load occasionally and set torch's number of threads. Returns whether it changed."""
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
        """Wrap ``on_progress`` so that each call also checks the load."""

        def balanced_progress(count: int) -> object:
            self.balance()
            return on_progress(count)

        return balanced_progress

    def _clamp(self, processors: float) -> int:
        return max(1, min(self.max_threads, math.floor(processors)))
