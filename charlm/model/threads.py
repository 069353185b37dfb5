"""How many of torch's threads a sampling step may use.

A step at a small size is over before other threads have been woken and waited for, and it runs thousands of times a
second. So it has a limit of its own, which holds inside the step alone: a stream hands its caller a process in which
torch computes with as many threads as before.
"""

from threading import Lock
from types import TracebackType

import torch

WEIGHTS_PER_THREAD = 1 << 20  # of a matrix: fewer are multiplied faster by the threads that are already at it


def useful_threads(weights: int, lanes: int) -> int:
    """How many threads make the product of one vector with a matrix of so many weights faster."""
    return max(1, weights * lanes // WEIGHTS_PER_THREAD)


class ThreadLimit:
    """``with limit:`` has torch use at most ``threads`` threads; it may be entered any number of times.

    torch has one number for the whole process, and a thread that is new to torch takes it over. So of the Python
    threads that are inside a limit at the same time, the first one reads what all of them restore.
    """

    _lock = Lock()
    _inside = 0
    _outside_threads = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        with self._lock:
            if not ThreadLimit._inside:
                ThreadLimit._outside_threads = torch.get_num_threads()
            ThreadLimit._inside += 1
            torch.set_num_threads(min(self.threads, self._outside_threads))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            ThreadLimit._inside -= 1
            torch.set_num_threads(self._outside_threads)
