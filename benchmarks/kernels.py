"""The native kernels against torch's: training steps by turns in one process, and sampled text.

    python benchmarks/kernels.py --threads 1 --cpu-time
    python benchmarks/kernels.py --threads 2 --precision bf16 --only training

Prints tables as they stand in docs/benchmarks.md. With ``--cpu-time``, and one thread, only the time counts in which
this process ran, so that other programs on the machine matter less.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from charlm.machine import shorten_thread_waits

shorten_thread_waits()  # as the command does, before torch is loaded

import torch

from charlm.benchmark.candidates import VOCABULARY_SIZE, charlm_sampling, charlm_training
from charlm.config import BenchSettings, SampleSettings
from charlm.model.device import processor_name
from charlm.model.kernels.library import load_native
from charlm.model.kernels.native import NativeKernel
from charlm.model.recurrent import RecurrentLayer
from charlm.model.sizes import count_training_flops

CPU = torch.device("cpu")
TRAINING = [  # hidden size, batch, window
    *((32, 64, 64), (64, 64, 64), (128, 50, 50), (192, 64, 64), (256, 64, 64)),
    *((320, 64, 64), (384, 32, 64), (512, 64, 64), (1024, 64, 64)),
]
FEW_LANES = [(hidden, lanes, 64) for hidden in (128, 256) for lanes in (1, 4, 8, 16)]
SAMPLING = [(hidden, texts) for hidden in (128, 256, 512) for texts in (1, 64)]
SAMPLED = SampleSettings().length  # characters of each text in a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the training steps")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--only", choices=["training", "few-lanes", "sampling", "parts"], action="append")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    compare = partial(take_turns, rounds=arguments.rounds, clock=clock)
    only = arguments.only or ["training", "few-lanes", "sampling"]

    torch.set_num_threads(arguments.threads)
    precision: Literal["fp32", "bf16"] = arguments.precision
    matrix = torch.randn(2048, 2048, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    limit = 2 * 2048**3 / compare({"product": partial(torch.mm, matrix, matrix)})["product"] / 1e9
    print(f"{processor_name()}, {arguments.threads} threads, torch {torch.__version__}, {load_native().description}; ")
    print(f"product of 2048³ in {precision}: {limit:.0f} GFLOP/s\n")
    if {"training", "few-lanes"} & set(only):
        print("| layers × hidden, batch × window | torch | native | ratio | torch, % | native, % |")
        print("| --- | --- | --- | --- | --- | --- |")
    for name, shapes in (("training", TRAINING), ("few-lanes", FEW_LANES)):
        for hidden, lanes, steps in shapes if name in only else ():
            settings = BenchSettings(
                hidden_size=hidden,
                batch_size=lanes,
                sequence_length=steps,
                threads=arguments.threads,
                precision=precision,
            )
            seconds = compare({kernel: charlm_training(with_kernel(settings, kernel), CPU) for kernel in KERNELS})
            speeds = [lanes * settings.sequence_length / seconds[kernel] for kernel in KERNELS]
            flops = count_training_flops(VOCABULARY_SIZE, settings) / 1e9
            shares = " | ".join(f"{100 * speed * flops / limit:.0f}" for speed in speeds)
            print(f"| 2 × {hidden}, {lanes} × {settings.sequence_length} | {row(speeds)} | {shares} |", flush=True)
    if "sampling" in only:
        print("\n| layers × hidden, texts | torch and numpy | native | ratio |\n| --- | --- | --- | --- |")
    for hidden, texts in SAMPLING if "sampling" in only else ():
        settings = BenchSettings(hidden_size=hidden, threads=arguments.threads)
        turns = {kernel: charlm_sampling(with_kernel(settings, kernel), CPU, texts, SAMPLED) for kernel in KERNELS}
        seconds = compare(turns)
        print(
            f"| 2 × {hidden}, {texts} | {row([texts * SAMPLED / seconds[kernel] for kernel in KERNELS])} |", flush=True
        )

    if "parts" in only:
        print("\n| units, batch × window | forward, GFLOP/s | backward, GFLOP/s |\n| --- | --- | --- |")
    for hidden, lanes, steps in PARTS if "parts" in only else ():
        forward, backward = time_layer(hidden, lanes, steps, arguments.rounds, clock)
        flops = 2 * steps * lanes * 2 * hidden * 4 * hidden / 1e9
        print(f"| {hidden}, {lanes} × {steps} | {flops / forward:.0f} | {2 * flops / backward:.0f} |", flush=True)


KERNELS = ("torch", "native")
PARTS = [(hidden, lanes, steps) for hidden, lanes in ((128, 64), (256, 64), (384, 32)) for steps in (2, 64)]


def time_layer(units: int, lanes: int, steps: int, rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Median seconds of a layer above the first, forward and backward."""
    layer = RecurrentLayer("lstm", units, units)
    inputs = torch.randn(steps, lanes, units, requires_grad=True)
    state = (torch.zeros(lanes, units), torch.zeros(lanes, units))
    times: list[tuple[float, float]] = []
    for _ in range((rounds + 2) * max(1, 64 // steps)):
        began = clock()
        outputs, _ = NativeKernel().run(layer, inputs, state, None, "fp32")
        between = clock()
        outputs.backward(outputs.detach())
        times.append((between - began, clock() - between))
    forward, backward = (statistics.median(part) for part in zip(*times, strict=True))
    return forward, backward


def with_kernel(settings: BenchSettings, kernel: str) -> BenchSettings:
    return settings.model_copy(update={"kernel": kernel})


def row(speeds: list[float]) -> str:
    return f"{speeds[0]:,.0f} | {speeds[1]:,.0f} | {speeds[1] / speeds[0]:.2f}"


def take_turns(turns: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of a turn of each; the first two turns warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 2):
        for name, turn in turns.items():
            began = clock()
            turn()
            seconds[name].append(clock() - began)
    return {name: statistics.median(all_[2:]) for name, all_ in seconds.items()}


if __name__ == "__main__":
    main()
