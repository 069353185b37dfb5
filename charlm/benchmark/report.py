"""Benchmark charlm against plain PyTorch: all candidates are interleaved in one run, and medians are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from charlm.benchmark.candidates import (
    MATMULS_PER_ROUND,
    MATRIX_SIZE,
    SAMPLED_CHARACTERS,
    VOCABULARY_SIZE,
    TorchCellModel,
    TorchModel,
    charlm_sampling,
    charlm_training,
    product,
    sampling_precision,
    torch_sampling,
    torch_training,
)
from charlm.benchmark.timing import measure_speeds
from charlm.checkpoint.environment import Environment, describe_environment
from charlm.config import BenchSettings
from charlm.model.device import choose_device, choose_precision, has_fast_bf16
from charlm.model.kernels.choice import Choice, choose_kernel, samples_natively
from charlm.model.sizes import count_training_flops

BATCH_SIZES = (1, 64)  # texts sampled in parallel
TORCH_KERNEL = "charlm, --kernel torch"


@dataclass(frozen=True)
class BenchmarkReport:
    """Characters per second: the median of all rounds, for each candidate."""

    settings: BenchSettings
    rounds: int
    training_characters_per_second: dict[str, float]
    sampling_1_characters_per_second: dict[str, float]
    sampling_64_characters_per_second: dict[str, float]
    matrix_gflops: dict[str, float]
    training_gflops: float  # charlm's
    kernel: str  # what runs the layers in charlm's training, and why
    environment: Environment


def run_benchmark(
    settings: BenchSettings, rounds: int, on_progress: Callable[[], object] = lambda: None
) -> BenchmarkReport:
    """Measure training, sampling and the machine itself."""
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    kernel = choose_training_kernel(settings)
    char_rnn_settings = settings.model_copy(update={"embedding_size": settings.hidden_size, "tie_weights": False})
    on_torch = settings.model_copy(update={"kernel": "torch"})
    training = {
        "charlm": (charlm_training, settings),
        **({TORCH_KERNEL: (charlm_training, on_torch)} if kernel.kernel.name != "torch" else {}),
        "same model, nn.LSTM fp32": (torch_training, settings),
        "char-rnn-like model, nn.LSTM fp32": (torch_training, char_rnn_settings),
    }
    matmuls = {"fp32": (partial(product, torch.float32), settings)}
    if has_fast_bf16(device):  # takes minutes on a processor without the instructions
        matmuls["bf16"] = (partial(product, torch.bfloat16), settings)

    def sample(texts: int) -> dict[str, float]:
        candidates = {
            "charlm": (partial(charlm_sampling, streams=texts), settings),
            **({TORCH_KERNEL: (partial(charlm_sampling, streams=texts), on_torch)} if samples_in_c(settings) else {}),
            "same model, nn.LSTM per character": (partial(torch_sampling, TorchModel, texts), settings),
            "same model, nn.LSTMCell": (partial(torch_sampling, TorchCellModel, texts), settings),
        }
        return measure_speeds(candidates, texts * SAMPLED_CHARACTERS, rounds, on_progress)

    speeds = measure_speeds(training, settings.batch_size * settings.sequence_length, rounds, on_progress)
    return BenchmarkReport(
        settings,
        rounds,
        training_characters_per_second=speeds,
        sampling_1_characters_per_second=sample(BATCH_SIZES[0]),
        sampling_64_characters_per_second=sample(BATCH_SIZES[1]),
        matrix_gflops=measure_speeds(matmuls, MATMULS_PER_ROUND * 2 * MATRIX_SIZE**3 / 1e9, rounds, on_progress),
        training_gflops=count_training_flops(VOCABULARY_SIZE, settings) * speeds["charlm"] / 1e9,
        kernel=kernel.reason,
        environment=describe_environment(device, precision),
    )


def count_measurements(settings: BenchSettings, rounds: int) -> int:
    """How often ``on_progress`` is called, at most."""
    on_torch = (choose_training_kernel(settings).kernel.name != "torch") + len(BATCH_SIZES) * samples_in_c(settings)
    return (3 + 3 * len(BATCH_SIZES) + on_torch + 2) * (rounds + 1)


def choose_training_kernel(settings: BenchSettings) -> Choice:
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    return choose_kernel(settings.cell, settings.hidden_size, settings.batch_size, device, precision, settings.kernel)


def samples_in_c(settings: BenchSettings) -> bool:
    device = choose_device(settings.device)
    return samples_natively(settings.cell, device, sampling_precision(settings), settings.kernel)
