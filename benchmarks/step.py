"""Where the time of a training step goes on a CPU, and what dropout adds to it.

    python benchmarks/step.py data/tinyshakespeare.txt --hidden-size 384

First come the steps of three trainings by turns, in one process: with dropout, without, and with torch's own. Then a
profile of steps with dropout, operation by operation.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from torch import Tensor, get_num_threads, nn
from torch.profiler import ProfilerActivity, profile

from charlm.config import SettingsSource
from charlm.model.device import configure_torch
from charlm.training.monitor import Monitor
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from charlm.training.trainer import Trainer

WARM_UP_STEPS = 3
STEPS = 3  # a turn
PROFILED_STEPS = 10
MIN_SHARE = 0.001  # of an operation that is shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--kernel", default="auto", choices=["auto", "native", "torch"])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    trainers = {
        name: make_trainer(arguments.text, arguments.hidden_size, arguments.kernel, dropout)
        for name, dropout in {"no dropout": 0.0, "dropout": 0.2, "torch's dropout": 0.2}.items()
    }
    trainers["torch's dropout"].model.recurrent.dropout = TorchDropout(0.2)  # type: ignore[assignment]
    configure_torch(trainers["dropout"].balancer.max_threads)
    print(f"2 × {arguments.hidden_size}, {trainers['dropout'].precision}, {get_num_threads()} threads\n")
    print(compare(trainers, arguments.rounds), end="\n\n")
    print(describe_profile(trainers["dropout"]))


class TorchDropout(nn.Dropout):
    """It needs no key to its mask."""

    def forward(self, inputs: Tensor, *key: object) -> Tensor:
        return super().forward(inputs)


def make_trainer(text: Path, hidden_size: int, kernel: str, dropout: float) -> Trainer:
    changes = {"device": "cpu", "hidden_size": hidden_size, "kernel": kernel, "dropout": dropout}
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_training(
            TrainingRequest([str(text)], [SettingsSource("benchmark", changes)], out=Path(folder) / "run")
        )
    return Trainer(plan.settings, plan.corpus, plan.run, Monitor(plan.run, plan.settings, 0, quiet=True))


def compare(trainers: dict[str, Trainer], rounds: int) -> str:
    """Medians of the seconds of a step, and the speed without dropout that each keeps."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for trainer in trainers.values():
        take_steps(trainer, WARM_UP_STEPS)
    for _ in range(rounds):
        for name, trainer in trainers.items():
            seconds[name].append(take_steps(trainer, STEPS) / STEPS)
    plain = seconds["no dropout"]
    lines = []
    for name, times in seconds.items():
        speed = statistics.median(before / after for before, after in zip(plain, times, strict=True))  # turn by turn
        lines.append(f"{name:16} {1000 * statistics.median(times):8.1f} ms per step   {speed:.3f} of the speed")
    return "\n".join(lines)


def take_steps(trainer: Trainer, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    return time.perf_counter() - began


def describe_profile(trainer: Trainer) -> str:
    """Operations with their share of the time, without the operations inside them, and how often a step calls them."""
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        take_steps(trainer, PROFILED_STEPS)
    operations = sorted(measured.key_averages(), key=lambda operation: -operation.self_cpu_time_total)
    total = sum(operation.self_cpu_time_total for operation in operations)
    return "\n".join(
        f"{operation.self_cpu_time_total / total:6.1%} {operation.count / PROFILED_STEPS:7.1f} × {operation.key}"
        for operation in operations
        if operation.self_cpu_time_total / total >= MIN_SHARE
    )


if __name__ == "__main__":
    main()
