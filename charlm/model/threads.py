"""Limit torch's threads during a sampling step.

A small step is done before other threads wake up, and there are thousands per second. The limit applies only inside the
step, so that a stream's caller never notices it.
"""

from threading import Lock, get_ident
from types import TracebackType
from typing import ClassVar

import torch

MULTIPLICATIONS_PER_THREAD = 1 << 21  # below this, another thread was measured to save almost nothing


def count_useful_threads(weights: int, lanes: int) -> int:
    """The number of threads that speed up a matrix multiplication of this size."""
    return max(1, weights * lanes // MULTIPLICATIONS_PER_THREAD)


class ThreadLimit:
    """``with limit:`` has torch use at most ``threads`` threads. It can be entered any number of times.

    torch keeps a number for each Python thread, and one for the process, with which a new thread begins: it may be the
    limit of another one. So of the threads that are inside a limit at one time, all restore what the first one found.
    """

    _lock = Lock()
    _inside: ClassVar[set[int]] = set()  # Python threads; after a KeyboardInterrupt, one may remain until its next step
    _outside_threads = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                ThreadLimit._outside_threads = torch.get_num_threads()
            self._inside.add(get_ident())
            torch.set_num_threads(min(self.threads, self._outside_threads))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            torch.set_num_threads(self._outside_threads)
            self._inside.discard(get_ident())
