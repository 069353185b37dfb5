"""How long a training would take on this machine, found by doing a little of it."""

from pathlib import Path

from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.model.device import prepare_process
from charlm.training import schedule
from charlm.training.trainer import Trainer

WARM_UP_STEPS = 3
STEPS = 8


def training_seconds(settings: TrainSettings, corpus: Corpus) -> float:
    """Seconds of training time: that of a step times the number of steps. Nothing is written."""
    prepare_process(settings.threads)
    trainer = Trainer(settings, corpus, Path(), quiet=True)
    _take(trainer, WARM_UP_STEPS)
    total = schedule.total_steps(settings, trainer.lanes.windows_per_epoch)
    return _take(trainer, STEPS) / STEPS * total


def _take(trainer: Trainer, steps: int) -> float:
    trainer.stopwatch.start()
    before = trainer.stopwatch.read()
    for _ in range(steps):
        trainer.train_step()
    with trainer.stopwatch.paused():  # a GPU finishes what it was given first
        return trainer.stopwatch.read() - before
