"""Estimate the memory of a training run by counting, and its time by running a few steps."""

import math
from pathlib import Path

from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.errors import CharlmError
from charlm.machine import count_local_processes, read_memory_bytes
from charlm.model.device import choose_device
from charlm.model.language_model import CharacterModel
from charlm.training.monitor import Monitor
from charlm.training.trainer import Trainer

WARMUP_STEPS = 3
TIMED_STEPS = 8


def check_memory(settings: TrainSettings, vocabulary_size: int, processes: int = 1) -> None:
    """Raise ``CharlmError`` if training cannot fit into this machine's memory, where the system would kill it.

    Counts weights, their average, gradients and moments, and the logits of a window with their gradient: the minimum.
    Each of the ``processes`` has its own.
    """
    if choose_device(settings.device).type != "cpu":
        return  # GPUs report it themselves
    parameters = sum(math.prod(shape) for shape in CharacterModel.shapes(vocabulary_size, settings).values())
    logits = settings.batch_size * settings.sequence_length * vocabulary_size // processes
    copies = 4 - (settings.optimizer == "muon") + (settings.average_decay > 0)  # Muon has one moment
    needed_bytes = count_local_processes() * 4 * (copies * parameters + 2 * logits)
    available_bytes = read_memory_bytes()
    if needed_bytes > available_bytes:
        raise CharlmError(
            f"With a vocabulary of {vocabulary_size:,} {settings.unit}s, training needs at least "
            f"{needed_bytes / 1e9:.1f} GB of memory; this machine has {available_bytes / 1e9:.1f} GB.",
            "Reduce --batch-size, --sequence-length or --hidden-size"
            + (", or merge rare characters with --min-count." if settings.unit == "character" else "."),
        )


def estimate_seconds(settings: TrainSettings, corpus: Corpus) -> float:
    """Estimate the training time in seconds: time per step times number of steps. Nothing is written.

    Raises ``CharlmError`` if it would not fit into memory.
    """
    check_memory(settings, len(corpus.vocabulary))
    trainer = Trainer(settings, corpus, Path(), Monitor(Path(), settings, 0, quiet=True))
    _time_steps(trainer, WARMUP_STEPS)
    return _time_steps(trainer, TIMED_STEPS) / TIMED_STEPS * trainer.policy.total_steps


def _time_steps(trainer: Trainer, steps: int) -> float:
    trainer.stopwatch.start()
    before = trainer.stopwatch.read()
    for _ in range(steps):
        trainer.train_step()
    with trainer.stopwatch.paused():  # waits for a GPU
        return trainer.stopwatch.read() - before
