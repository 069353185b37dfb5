"""The threads that numpy's BLAS and torch's OpenMP keep in a process, and which of them some work wakes (Linux).

To be imported first, in a process of its own: what numpy starts is known by being there before torch is.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TASKS = Path("/proc/self/task")
POLL_SECONDS = 0.02


def other_threads() -> set[int]:
    """All but the main thread, by number."""
    return {int(task.name) for task in TASKS.iterdir()} - {int(Path("/proc/self").readlink().name)}


BLAS_THREADS = other_threads()


def woken(threads: set[int], work: Callable[[], object]) -> set[int]:
    """Those of these sleeping threads that the work wakes, however shortly."""
    before = times_fallen_asleep(threads)
    work()
    after = times_fallen_asleep(threads)
    return {thread for thread in threads if before[thread] != after[thread]}


def times_fallen_asleep(threads: set[int]) -> dict[int, int]:
    """How often each has gone to sleep, once all of them are asleep: a thread without work spins a while first."""
    while True:
        status = {thread: (TASKS / str(thread) / "status").read_text() for thread in threads}
        if all("State:\tS" in text for text in status.values()):
            return {
                thread: int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
                for thread, text in status.items()
            }
        time.sleep(POLL_SECONDS)


def can_see_blas() -> bool:
    """Whether numpy's BLAS has threads, and large products are seen to wake them."""
    matrix = np.ones((1024, 1024), dtype=np.float32)
    return bool(BLAS_THREADS) and woken(BLAS_THREADS, lambda: matrix @ matrix) == BLAS_THREADS
