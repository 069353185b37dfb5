"""Time candidates that take turns in one run, each in a process of its own.

So charlm's process-wide settings (allocator, denormals) do not affect the baselines.
"""

import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from multiprocessing.connection import Connection

import torch

from charlm.config import BenchSettings
from charlm.machine import default_thread_waits
from charlm.model.device import choose_device, synchronize

SETTLE_SECONDS = 0.1  # the previous candidate's threads spin for a moment before they sleep

TimedStep = Callable[[], object]
CandidateFactory = Callable[[BenchSettings, torch.device], TimedStep]
Candidate = tuple[CandidateFactory, BenchSettings]


def measure_speeds(
    candidates: Mapping[str, Candidate], amount: float, rounds: int, on_progress: Callable[[], object]
) -> dict[str, float]:
    """The ``amount`` of work of one timed step, per second, for each candidate."""
    seconds = _time_interleaved(candidates, rounds, on_progress)
    return {name: amount / time_ for name, time_ in seconds.items()}


def _time_interleaved(
    candidates: Mapping[str, Candidate], rounds: int, on_progress: Callable[[], object]
) -> dict[str, float]:
    """Median seconds per timed step of each candidate; the first step is a warmup and is not counted."""
    spawn = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes = []
    for name, (make_step, settings) in candidates.items():
        connections[name], child_end = spawn.Pipe()
        processes.append(spawn.Process(target=_run_candidate, args=(child_end, make_step, settings), daemon=True))
        with nullcontext() if name == "charlm" else default_thread_waits():
            processes[-1].start()
        child_end.close()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, connection in connections.items():
            time.sleep(SETTLE_SECONDS)
            connection.send("your turn")
            answer = connection.recv()
            if isinstance(answer, Exception):
                raise answer
            seconds[name].append(answer)
            on_progress()
    for connection, process in zip(connections.values(), processes, strict=True):
        connection.close()
        process.join()
    return {name: statistics.median(measured[1:]) for name, measured in seconds.items()}


def _run_candidate(connection: Connection, make_step: CandidateFactory, settings: BenchSettings) -> None:
    """The process of one candidate: on each message, run a step and send back how many seconds it took."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and ends its children
    try:
        torch.manual_seed(0)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        device = choose_device(settings.device)
        timed_step = make_step(settings, device)
        while True:
            connection.recv()
            started = time.perf_counter()
            timed_step()
            synchronize(device)
            connection.send(time.perf_counter() - started)
    except EOFError:  # the parent is done
        pass
    except Exception as error:
        connection.send(error)
