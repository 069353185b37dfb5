"""Speed on this machine, beside plain torch: all contestants take turns in one run, and medians are compared.

The peers are what one writes first with ``torch.nn.LSTM``: fp32, one call a window for training, one call a character
for sampling, and for sampling ``torch.nn.LSTMCell`` too. Each contestant lives in a process of its own, so that what
charlm sets for a whole process (allocator, denormals) is neither given to the peers nor taken from charlm.
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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.checkpoint.environment import Environment, describe_environment
from charlm.config import BenchSettings, OptimizationSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Window
from charlm.generation.streams import Sampler
from charlm.machine import default_thread_waits
from charlm.model.device import choose_device, choose_precision, multiplies_bf16, prepare_process, synchronize
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import choose_threads
from charlm.training.optimizer import make_optimizer
from charlm.training.step import take_step

VOCABULARY_SIZE = 65  # that of tiny Shakespeare
SAMPLED = 100  # characters of each stream in one turn
STREAMS = (1, 64)  # texts side by side
TEMPERATURE = 0.8
MATRIX_SIZE = 1024
PRODUCTS = 50  # of one turn
SETTLE_SECONDS = 0.1  # the threads of the one before spin a little while before they sleep

Turn = Callable[[], object]
Make = Callable[[BenchSettings, torch.device], Turn]
Contestant = tuple[Make, BenchSettings]


class PlainModel(nn.Module):
    """Embedding, ``nn.LSTM`` (``nn.GRU``, ``nn.RNN``), linear."""

    def __init__(self, settings: BenchSettings) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[settings.cell]
        self.embedding = nn.Embedding(VOCABULARY_SIZE, settings.embedding_size)
        between = settings.dropout if settings.num_layers > 1 else 0.0
        self.recurrent = kind(settings.embedding_size, settings.hidden_size, settings.num_layers, dropout=between)
        self.output = nn.Linear(settings.hidden_size, VOCABULARY_SIZE)

    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, state = self.recurrent(self.embedding(ids), state)
        return self.output(outputs), state


class PlainCells(nn.Module):
    """Embedding, one ``nn.LSTMCell`` (``nn.GRUCell``, ``nn.RNNCell``) a layer, linear: one character at a time."""

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
    """Characters per second, medians of all rounds, by what was measured."""

    settings: BenchSettings
    rounds: int
    training_characters_per_second: dict[str, float]
    sampling_1_characters_per_second: dict[str, float]
    sampling_64_characters_per_second: dict[str, float]
    matrix_gflops: dict[str, float]
    training_gflops: float  # charlm's
    environment: Environment


def run(settings: BenchSettings, rounds: int, on_progress: Callable[[], object] = lambda: None) -> BenchmarkReport:
    """Measure training, sampling and the machine itself."""
    device = choose_device(settings.device)
    shape_of_char_rnn = settings.model_copy(update={"embedding_size": settings.hidden_size, "tie_weights": False})
    training = {
        "charlm": (charlm_training, settings),
        "same model, nn.LSTM fp32": (plain_training, settings),
        "char-rnn-like model, nn.LSTM fp32": (plain_training, shape_of_char_rnn),
    }
    products = {"fp32": (product_fp32, settings)}
    if multiplies_bf16(device):  # a processor without the instructions takes minutes
        products["bf16"] = (product_bf16, settings)

    def sample(texts: int) -> dict[str, float]:
        contestants = {
            "charlm": (partial(charlm_sampling, streams=texts), settings),
            "same model, nn.LSTM per character": (partial(plain_sampling, PlainModel, texts), settings),
            "same model, nn.LSTMCell": (partial(plain_sampling, PlainCells, texts), settings),
        }
        return _speeds(contestants, texts * SAMPLED, rounds, on_progress)

    speeds = _speeds(training, settings.batch_size * settings.sequence_length, rounds, on_progress)
    return BenchmarkReport(
        settings,
        rounds,
        training_characters_per_second=speeds,
        sampling_1_characters_per_second=sample(STREAMS[0]),
        sampling_64_characters_per_second=sample(STREAMS[1]),
        matrix_gflops=_speeds(products, PRODUCTS * 2 * MATRIX_SIZE**3 / 1e9, rounds, on_progress),
        training_gflops=training_flops(settings) * speeds["charlm"] / 1e9,
        environment=describe_environment(device, choose_precision(settings.precision, device)),
    )


def turns(rounds: int) -> int:
    """How often ``on_progress`` is called."""
    return (3 + 3 * len(STREAMS) + 2) * (rounds + 1)


def training_flops(settings: BenchSettings) -> float:
    """Multiplications and additions of the matrix products for one character: 2 a weight forward, 4 back."""
    model = CharacterModel(VOCABULARY_SIZE, settings)
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "weight_" in name)
    return 6.0 * (weights + model.output_matrix().numel())


def _speeds(
    contestants: Mapping[str, Contestant], amount: float, rounds: int, on_progress: Callable[[], object]
) -> dict[str, float]:
    """What each does in a second, where a turn does this ``amount``."""
    seconds = _take_turns(contestants, rounds, on_progress)
    return {name: amount / time_ for name, time_ in seconds.items()}


def _take_turns(
    contestants: Mapping[str, Contestant], rounds: int, on_progress: Callable[[], object]
) -> dict[str, float]:
    """Median seconds of a turn of each; the first turn warms up and does not count."""
    spawn = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes = []
    for name, (make, settings) in contestants.items():
        connections[name], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=_serve, args=(theirs, make, settings), daemon=True))
        with nullcontext() if name == "charlm" else default_thread_waits():
            processes[-1].start()
        theirs.close()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
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
    return {name: statistics.median(all_[1:]) for name, all_ in seconds.items()}


def _serve(connection: Connection, make: Make, settings: BenchSettings) -> None:
    """The process of one contestant: at each message a turn, and how many seconds it took."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its children
    try:
        torch.manual_seed(0)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        device = choose_device(settings.device)
        turn = make(settings, device)
        while True:
            connection.recv()
            began = time.perf_counter()
            turn()
            synchronize(device)
            connection.send(time.perf_counter() - began)
    except EOFError:  # the parent is done
        pass
    except Exception as error:
        connection.send(error)


def _windows(settings: BenchSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (settings.sequence_length, settings.batch_size)
    ids = torch.randint(VOCABULARY_SIZE, shape, device=device)
    return ids, torch.randint(VOCABULARY_SIZE, shape, device=device)


def charlm_training(settings: BenchSettings, device: torch.device) -> Turn:
    precision = choose_precision(settings.precision, device)
    prepare_process(choose_threads(settings.threads, settings, settings.batch_size, precision))
    model = CharacterModel(VOCABULARY_SIZE, settings, regularization=settings).to(device)
    learning = OptimizationSettings()
    optimizer = make_optimizer(model, learning)
    inputs, targets = (ids.cpu().numpy() for ids in _windows(settings, device))
    window = Window(inputs, targets, new_lanes=None, resets=None, num_targets=targets.size)
    state = model.zero_state(settings.batch_size)

    def turn() -> None:
        nonlocal state
        step = take_step(model, optimizer, [window], state, learning.learning_rate, learning.gradient_clip, precision)
        state = step.state

    return turn


def plain_training(settings: BenchSettings, device: torch.device) -> Turn:
    model = PlainModel(settings).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, targets = _windows(settings, device)
    state: Any = None

    def turn() -> None:
        nonlocal state
        logits, after = model(inputs, state)
        state = tuple(part.detach() for part in after) if isinstance(after, tuple) else after.detach()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return turn


def charlm_sampling(settings: BenchSettings, device: torch.device, streams: int) -> Turn:
    prepare_process(settings.threads)
    model = CharacterModel(VOCABULARY_SIZE, settings).to(device)
    vocabulary = Vocabulary([chr(ord("A") + number) for number in range(VOCABULARY_SIZE)])
    precision = "auto" if settings.precision == "bf16" else settings.precision
    options = SampleSettings(length=SAMPLED, num_samples=streams, temperature=TEMPERATURE, precision=precision)
    return Sampler(model, vocabulary, options).samples


def plain_sampling(
    kind: type[PlainModel] | type[PlainCells], streams: int, settings: BenchSettings, device: torch.device
) -> Turn:
    model = kind(settings).to(device).eval()

    @torch.inference_mode()
    def turn() -> None:
        state: Any = None
        ids = torch.zeros(1, streams, dtype=torch.long, device=device)
        for _ in range(SAMPLED):
            logits, state = model(ids, state)
            ids = torch.multinomial(functional.softmax(logits[-1] / TEMPERATURE, -1), 1).T
            ids.tolist()

    return turn


def product_fp32(settings: BenchSettings, device: torch.device) -> Turn:
    return _product(device, torch.float32)


def product_bf16(settings: BenchSettings, device: torch.device) -> Turn:
    return _product(device, torch.bfloat16)


def _product(device: torch.device, kind: torch.dtype) -> Turn:
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(kind)

    def turn() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, a)

    return turn
