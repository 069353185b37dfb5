"""How many of torch's threads a sampling step may use.

A small step is over before other threads have woken up, and there are thousands a second. So a step has a limit of its
own, which holds only inside the step: a stream hands every character to a caller whose process is as it was before.
"""

from threading import Lock, get_ident
from types import TracebackType
from typing import ClassVar

import torch

MULTIPLICATIONS_PER_THREAD = 1 << 21  # of a product; with fewer, another thread was measured to save next to nothing


def count_useful_threads(weights: int, lanes: int) -> int:
    """How many threads make a product of this many weights, for this many lanes, faster."""
    return max(1, weights * lanes // MULTIPLICATIONS_PER_THREAD)


class ThreadLimit:
    """``with limit:`` has torch use at most ``threads`` threads. It can be entered any number of times.

    torch keeps a number for each Python thread, and one for the process, with which a new thread begins: it may be the
    limit of another one. So of the threads that are inside a limit at one time, all restore what the first one found.
    """

    _lock = Lock()
    _inside: ClassVar[set[int]] = set()  # Python threads; a KeyboardInterrupt may leave one here until its next step
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
