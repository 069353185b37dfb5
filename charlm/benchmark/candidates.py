"""What is measured: charlm, straightforward PyTorch, and products of large matrices.

The baselines are ``torch.nn.LSTM`` implementations: fp32, one call per window for training, one call per character for
sampling, and for sampling ``torch.nn.LSTMCell`` as well.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.benchmark.timing import TimedStep
from charlm.config import BenchSettings, OptimizationSettings, SampleSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Window
from charlm.generation.sampler import Sampler
from charlm.model.device import choose_precision, configure_torch
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import choose_threads
from charlm.training.optimizer import make_optimizer
from charlm.training.step import take_step

VOCABULARY_SIZE = 65  # of tiny Shakespeare
SAMPLED_CHARACTERS = 100  # per text and timed step
TEMPERATURE = 0.8
MATRIX_SIZE = 2048
MATMULS_PER_ROUND = 6  # per timed step


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


def charlm_sampling(
    settings: BenchSettings, device: torch.device, streams: int, length: int = SAMPLED_CHARACTERS
) -> TimedStep:
    configure_torch(settings.threads)
    model = CharacterModel(VOCABULARY_SIZE, settings).to(device)
    model.recurrent.kernel = settings.kernel
    vocabulary = Vocabulary([chr(ord("A") + number) for number in range(VOCABULARY_SIZE)])
    precision = sampling_precision(settings)
    options = SampleSettings(length=length, num_samples=streams, temperature=TEMPERATURE, precision=precision)
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


def sampling_precision(settings: BenchSettings) -> Literal["auto", "fp32"]:
    """The precision of a sampler that goes with that of training."""
    return "fp32" if settings.precision == "fp32" else "auto"
