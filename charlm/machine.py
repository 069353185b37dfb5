"""The processors and memory that this process may use, and how its threads wait for one another.

This module does not import torch, because :func:`shorten_thread_waits` works only before that.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = 10_000  # iterations of an empty loop, about 10 µs; GNU OpenMP's default is 300,000
BLOCK_TIME_MS = 1  # of LLVM OpenMP (macOS, Windows), whose default is 200
UNLIMITED = 1 << 60  # version 1 of control groups says "no limit" with a number above this


def shorten_thread_waits() -> None:
    """Let threads that wait at a barrier sleep soon, unless the user configured it otherwise.

    At each barrier, the threads of OpenMP spin until the last one is there. While another program holds a processor,
    the thread that runs on it is late by a whole time slice, and by default all others burn theirs until it comes: two
    threads on two processors then run at a small part of their speed (``benchmarks/sharing.py``). The variables are
    read once, when torch is loaded: in a notebook that has imported torch before charlm this changes nothing.
    """
    if "torch" not in sys.modules and not any(variable in os.environ for variable in WAIT_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
        os.environ["KMP_BLOCKTIME"] = str(BLOCK_TIME_MS)


def has_short_thread_waits() -> bool:
    """Whether OpenMP's threads let others have their processors soon. They do if the user has set how they wait."""
    return any(variable in os.environ for variable in WAIT_VARIABLES)


@contextmanager
def default_thread_waits() -> Iterator[None]:
    """Processes started in this block use OpenMP's default waits, or the user's."""
    ours = {"GOMP_SPINCOUNT": str(SPIN_COUNT), "KMP_BLOCKTIME": str(BLOCK_TIME_MS)}
    taken = {variable: os.environ.pop(variable) for variable in ours if os.environ.get(variable) == ours[variable]}
    try:
        yield
    finally:
        os.environ.update(taken)


def count_processors(root: Path = Path("/")) -> int:
    """The number of processors that this process may use, according to its affinity and its container's CPU quota."""
    quotas = [
        *(_quota(_read_words(folder / "cpu.max")) for folder in _control_groups("cpu", root)),
        *(
            _quota([*_read_words(folder / "cpu.cfs_quota_us"), *_read_words(folder / "cpu.cfs_period_us")])
            for folder in _control_groups("cpu", root)
        ),
    ]
    return max(1, min([len(_affinity()), *(int(quota) for quota in quotas if quota is not None)]))


def read_memory_bytes(root: Path = Path("/")) -> int:
    """The memory that this process may use: that of the machine, or its container's limit."""
    import psutil

    limits = [
        int(words[0])
        for folder in _control_groups("memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (words := _read_words(folder / name)) and words[0].isdigit() and int(words[0]) < UNLIMITED
    ]
    return min([psutil.virtual_memory().total, *limits])


class LoadMeter:
    """Measures how many of this process's processors are busy with other programs.

    Programs started with ``nice`` are not counted, because they yield to this one, unless it was started with ``nice``
    itself.
    """

    def __init__(self) -> None:
        self.nice_counts = hasattr(os, "nice") and os.nice(0) > 0
        self.restart()

    def restart(self) -> None:
        self.started_at, self.busy_before = time.monotonic(), self._busy_seconds()

    @property
    def seconds(self) -> float:
        """Seconds since the last restart."""
        return time.monotonic() - self.started_at

    def read(self) -> float:
        """The average number of processors busy with other programs since the last restart; 0 if the system does not
        report it.
        """
        return max(0.0, (self._busy_seconds() - self.busy_before) / self.seconds) if self.seconds else 0.0

    def _busy_seconds(self) -> float:
        """Seconds of all our processors in which other programs ran, since the machine was started."""
        import psutil

        times = psutil.cpu_times(percpu=True)
        kinds = ("user", "system", "irq", "softirq", "steal", *(["nice"] if self.nice_counts else []))
        ours = [times[number] for number in _affinity() if number < len(times)]
        return sum(getattr(each, kind, 0.0) for each in ours for kind in kinds) - time.process_time()


def _affinity() -> list[int]:
    """The processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, of version 2 and version 1.

    In a container the path that the kernel tells may be the host's, while the folder itself is mounted at the top: so
    what is not there is passed over.
    """
    mounted = root / "sys/fs/cgroup"
    for line in _read_lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        group = PurePosixPath(path).relative_to("/") if path.startswith("/") else PurePosixPath()
        tops = {mounted / controllers, mounted / controller} if controllers else {mounted, mounted / "unified"}
        for top in sorted(tops):
            for folder in (group, *group.parents):
                yield top / folder


def _quota(words: list[str]) -> float | None:
    """The number of processors of a quota and its period (in microseconds), or ``None`` without a limit."""
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def _read_words(path: Path) -> list[str]:
    return " ".join(_read_lines(path)).split()


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
