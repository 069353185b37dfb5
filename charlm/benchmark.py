"""Benchmark charlm against plain PyTorch: all candidates are interleaved in one run, and medians are compared.

The baselines are straightforward ``torch.nn.LSTM`` implementations: fp32, one call per window for training, one call
per character for sampling, and for sampling ``torch.nn.LSTMCell`` as well. Each candidate has its own process, so that
charlm's process-wide settings (allocator, denormals) do not affect the baselines.
"""

import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.checkpoint.environment import Environment, describe_environment
from charlm.config import BenchSettings, OptimizationSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Window
from charlm.generation.sampler import Sampler
from charlm.machine import default_thread_waits
from charlm.model.device import choose_device, choose_precision, configure_torch, has_fast_bf16, synchronize
from charlm.model.kernels.choice import Choice, choose_kernel, samples_natively
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import choose_threads
from charlm.model.sizes import training_flops
from charlm.training.optimizer import make_optimizer
from charlm.training.step import take_step

VOCABULARY_SIZE = 65  # of tiny Shakespeare
SAMPLED_CHARACTERS = 100  # per text and timed step
BATCH_SIZES = (1, 64)  # texts sampled in parallel
TEMPERATURE = 0.8
MATRIX_SIZE = 2048
MATMULS_PER_ROUND = 6  # per timed step
TORCH_KERNEL = "charlm, --kernel torch"
SETTLE_SECONDS = 0.1  # the previous candidate's threads spin for a moment before they sleep

TimedStep = Callable[[], object]
CandidateFactory = Callable[[BenchSettings, torch.device], TimedStep]
Candidate = tuple[CandidateFactory, BenchSettings]


class TorchModel(nn.Module):
    """Embedding, ``nn.LSTM`` (``nn.GRU``, ``nn.RNN``), linear."""

    def __init__(self, settings: BenchSettings) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[settings.cell]
        self.embedding = nn.Embedding(VOCABULARY_SIZE, settings.embedding_size)
        dropout = settings.dropout if settings.num_layers > 1 else 0.0
        self.recurrent = kind(settings.embedding_size, settings.hidden_size, settings.num_layers, dropout=dropout)
        self.output = nn.Linear(settings.hidden_size, VOCABULARY_SIZE)

    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, state = self.recurrent(self.embedding(ids), state)
        return self.output(outputs), state


class TorchCellModel(nn.Module):
    """Embedding, one ``nn.LSTMCell`` (``nn.GRUCell``, ``nn.RNNCell``) per layer, linear; one character at a time."""

    def __init__(self, settings: BenchSettings) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[settings.cell]
        sizes = [settings.embedding_size] + [settings.hidden_size] * (settings.num_layers - 1)
        self.embedding = nn.Embedding(VOCABULARY_SIZE, settings.embedding_size)
        self.cells = nn.ModuleList(kind(size, settings.hidden_size) for size in sizes)
        self.output = nn.Linear(settings.hidden_size, VOCABULARY_SIZE)

    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, after = self.embedding(ids[0]), []
        for cell, before in zip(self.cells, state or [None] * len(self.cells), strict=True):
            after.append(cell(outputs, before))
            outputs = after[-1][0] if isinstance(after[-1], tuple) else after[-1]
        return self.output(outputs)[None], after


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
        return _measure_speeds(candidates, texts * SAMPLED_CHARACTERS, rounds, on_progress)

    speeds = _measure_speeds(training, settings.batch_size * settings.sequence_length, rounds, on_progress)
    return BenchmarkReport(
        settings,
        rounds,
        training_characters_per_second=speeds,
        sampling_1_characters_per_second=sample(BATCH_SIZES[0]),
        sampling_64_characters_per_second=sample(BATCH_SIZES[1]),
        matrix_gflops=_measure_speeds(matmuls, MATMULS_PER_ROUND * 2 * MATRIX_SIZE**3 / 1e9, rounds, on_progress),
        training_gflops=training_flops(VOCABULARY_SIZE, settings) * speeds["charlm"] / 1e9,
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
    return samples_natively(settings.cell, device, _sampling_precision(settings), settings.kernel)


def _sampling_precision(settings: BenchSettings) -> Literal["auto", "fp32"]:
    return "fp32" if settings.precision == "fp32" else "auto"


def _measure_speeds(
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


def _random_windows(settings: BenchSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (settings.sequence_length, settings.batch_size)
    ids = torch.randint(VOCABULARY_SIZE, shape, device=device)
    return ids, torch.randint(VOCABULARY_SIZE, shape, device=device)


def charlm_training(settings: BenchSettings, device: torch.device) -> TimedStep:
    precision = choose_precision(settings.precision, device)
    configure_torch(choose_threads(settings.threads, settings, settings.batch_size, precision))
    model = CharacterModel(VOCABULARY_SIZE, settings, regularization=settings).to(device)
    model.recurrent.kernel = settings.kernel
    learning = OptimizationSettings()
    optimizer = make_optimizer(model, learning)
    inputs, targets = (ids.cpu().numpy() for ids in _random_windows(settings, device))
    window = Window(inputs, targets, new_lanes=None, resets=None, num_targets=targets.size)
    state = model.zero_state(settings.batch_size)

    def timed_step() -> None:
        nonlocal state
        step = take_step(model, optimizer, [window], state, learning.learning_rate, learning.gradient_clip, precision)
        state = step.state

    return timed_step


def torch_training(settings: BenchSettings, device: torch.device) -> TimedStep:
    model = TorchModel(settings).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, targets = _random_windows(settings, device)
    state: Any = None

    def timed_step() -> None:
        nonlocal state
        logits, after = model(inputs, state)
        state = tuple(part.detach() for part in after) if isinstance(after, tuple) else after.detach()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return timed_step


def charlm_sampling(settings: BenchSettings, device: torch.device, streams: int) -> TimedStep:
    configure_torch(settings.threads)
    model = CharacterModel(VOCABULARY_SIZE, settings).to(device)
    model.recurrent.kernel = settings.kernel
    vocabulary = Vocabulary([chr(ord("A") + number) for number in range(VOCABULARY_SIZE)])
    precision = _sampling_precision(settings)
    options = SampleSettings(
        length=SAMPLED_CHARACTERS, num_samples=streams, temperature=TEMPERATURE, precision=precision
    )
    return Sampler(model, vocabulary, options).generate_all


def torch_sampling(
    kind: type[TorchModel] | type[TorchCellModel], streams: int, settings: BenchSettings, device: torch.device
) -> TimedStep:
    model = kind(settings).to(device).eval()

    @torch.inference_mode()
    def timed_step() -> None:
        state: Any = None
        ids = torch.zeros(1, streams, dtype=torch.long, device=device)
        for _ in range(SAMPLED_CHARACTERS):
            logits, state = model(ids, state)
            ids = torch.multinomial(functional.softmax(logits[-1] / TEMPERATURE, -1), 1).T
            ids.tolist()

    return timed_step


def product(kind: torch.dtype, settings: BenchSettings, device: torch.device) -> TimedStep:
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(kind)

    def turn() -> None:
        for _ in range(MATMULS_PER_ROUND):
            torch.mm(a, a)

    return turn
