"""Speed on this machine, beside plain torch: all contestants take turns in one run, and medians are compared.

The peers are what one writes first with ``torch.nn.LSTM``: fp32, one call a window for training, one call a character
for sampling. They run in this process, so what charlm sets for the whole process (``prepare_process``) helps them too.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.checkpoint import describe_process
from charlm.config import BenchSettings, OptimizationSettings
from charlm.generation.filters import distribution
from charlm.model.device import autocast, choose_device, choose_precision
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import Stepper
from charlm.training.optimizer import make_optimizer

VOCABULARY_SIZE = 65  # that of tiny Shakespeare
SAMPLED = 100  # characters of one turn
MATRIX_SIZE = 1024

Turn = Callable[[], object]


class PlainModel(nn.Module):
    """Embedding, ``nn.LSTM`` (``nn.GRU``, ``nn.RNN``), linear."""

    def __init__(self, settings: BenchSettings, embedding_size: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[settings.cell]
        self.embedding = nn.Embedding(VOCABULARY_SIZE, embedding_size)
        self.recurrent = kind(embedding_size, settings.hidden_size, settings.num_layers, dropout=settings.dropout)
        self.output = nn.Linear(settings.hidden_size, VOCABULARY_SIZE)

    def forward(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, state = self.recurrent(self.embedding(ids), state)
        return self.output(outputs), state


def run(settings: BenchSettings, rounds: int, on_progress: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Measure training, sampling and the machine itself. Characters per second, medians of ``rounds`` turns."""
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    torch.manual_seed(0)
    training = _take_turns(
        {
            "charlm": _charlm_training(settings, device, precision),
            "same model, nn.LSTM fp32": _plain_training(settings, settings.embedding_size, device),
            "char-rnn's shape, nn.LSTM fp32": _plain_training(settings, settings.hidden_size, device),
        },
        device,
        rounds,
        on_progress,
    )
    sampling = _take_turns(
        {
            "charlm": _charlm_sampling(settings, device),
            "same model, nn.LSTM a character at a time": _plain_sampling(settings, device),
        },
        device,
        rounds,
        on_progress,
    )
    matrix = _take_turns(
        {name: _product(device, kind) for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))},
        device,
        rounds,
        on_progress,
    )
    characters = settings.batch_size * settings.sequence_length
    return {
        "settings": settings.model_dump(),
        "rounds": rounds,
        "training_characters_per_second": {name: characters / seconds for name, seconds in training.items()},
        "sampling_characters_per_second": {name: SAMPLED / seconds for name, seconds in sampling.items()},
        "matrix_gflops": {name: 2 * MATRIX_SIZE**3 / seconds / 1e9 for name, seconds in matrix.items()},
        "training_gflops": training_flops(settings) * characters / training["charlm"] / 1e9,
        "made_by": describe_process(device, precision),
    }


def turns(rounds: int) -> int:
    """How often ``on_progress`` is called."""
    return (3 + 2 + 2) * (rounds + 1)


def training_flops(settings: BenchSettings) -> float:
    """Multiplications and additions of the matrix products of one character: twice the weights forward, four times
    back.
    """  # fmt: skip
    model = CharacterModel(VOCABULARY_SIZE, settings)
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "weight_" in name)
    return 6.0 * (weights + model.output_matrix().numel())


def _take_turns(
    contestants: Mapping[str, Turn], device: torch.device, rounds: int, on_progress: Callable[[], object]
) -> dict[str, float]:
    """Median seconds of a turn of each, the first of which (which warms up) does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, turn in contestants.items():
            began = time.perf_counter()
            turn()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - began)
            on_progress()
    return {name: statistics.median(all_[1:]) for name, all_ in seconds.items()}


def _windows(settings: BenchSettings, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (settings.sequence_length, settings.batch_size)
    ids = torch.randint(VOCABULARY_SIZE, shape, device=device)
    return ids, torch.randint(VOCABULARY_SIZE, shape, device=device)


def _charlm_training(settings: BenchSettings, device: torch.device, precision: str) -> Turn:
    model = CharacterModel(VOCABULARY_SIZE, settings).to(device)
    optimizer = make_optimizer(model, OptimizationSettings())
    inputs, targets = _windows(settings, device)
    state = model.zero_state(settings.batch_size)

    def turn() -> None:
        nonlocal state
        with autocast(device, precision):
            logits, after = model(inputs, state)
        state = tuple(part.detach() for part in after)
        model.loss(logits, targets).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return turn


def _plain_training(settings: BenchSettings, embedding_size: int, device: torch.device) -> Turn:
    model = PlainModel(settings, embedding_size).to(device)
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


def _charlm_sampling(settings: BenchSettings, device: torch.device) -> Turn:
    model = CharacterModel(VOCABULARY_SIZE, settings).to(device).eval()
    stepper = Stepper(model)
    before = stepper.read(torch.zeros(1, 1, dtype=torch.long, device=device))

    def turn() -> None:
        logits, state = before
        for _ in range(SAMPLED):
            drawn = torch.multinomial(distribution(logits, 0.8, 0), 1)[:, 0]
            int(drawn)
            logits, state = stepper.step(drawn, state)

    return turn


def _plain_sampling(settings: BenchSettings, device: torch.device) -> Turn:
    model = PlainModel(settings, settings.embedding_size).to(device).eval()

    @torch.inference_mode()
    def turn() -> None:
        state: Any = None
        ids = torch.zeros(1, 1, dtype=torch.long, device=device)
        for _ in range(SAMPLED):
            logits, state = model(ids, state)
            ids = torch.multinomial(functional.softmax(logits[-1] / 0.8, -1), 1)
            int(ids)

    return turn


def _product(device: torch.device, kind: torch.dtype) -> Turn:
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(kind)
    return lambda: a @ a
