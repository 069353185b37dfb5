"""What is shown of a model at an evaluation, and its exact validation loss when training has ended."""

from collections.abc import Callable
from pathlib import Path

import torch

from charlm import runs
from charlm.config import SampleSettings, TrainSettings
from charlm.console import open_bar
from charlm.corpus.text import Text
from charlm.corpus.vocabulary import SHORT_UNITS, Vocabulary
from charlm.evaluation.loss import Evaluation, evaluate
from charlm.generation.sampler import Sampler
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import ThreadBalancer
from charlm.training.internals import measure_internals
from charlm.training.monitor import Monitor
from charlm.training.state import TrainingState

INITIAL_CHARACTERS = 1000  # evaluated before the first step; few, so that nobody has to wait


def evaluate_untrained(model: CharacterModel, validation: Text, monitor: Monitor) -> None:
    """Show the loss of an untrained model, which is close to uniform guessing."""
    few = validation.subrange(range(min(INITIAL_CHARACTERS, len(validation))))
    monitor.log_initial_loss(evaluate(model, few).nats_per_character, model.vocabulary_size)


def show_model(
    state: TrainingState, settings: TrainSettings, vocabulary: Vocabulary, validation: Text, monitor: Monitor
) -> None:
    """Log gates, updates and a sample, without using training's random numbers."""
    step = state.counters.steps
    if settings.log_internals:
        monitor.log_internals(step, measure_internals(state.model, state.optimizer, validation))
    if settings.sample_length:
        options = SampleSettings(length=settings.sample_length, seed=step)
        monitor.log_sample(step, "".join(Sampler(state.result, vocabulary, options, settings).stream()))


def evaluate_best(
    run: Path, validation: Text, device: torch.device, monitor: Monitor, balancer: ThreadBalancer
) -> Evaluation:
    """Log and return the exact loss of the best checkpoint, in fp32 and one lane."""
    monitor.close_bar()
    best = runs.load_model(run)
    unit = f" {SHORT_UNITS[best.settings.unit]}s"
    with open_bar(monitor.quiet, total=len(validation), desc="exact validation", unit=unit, unit_scale=True) as bar:
        on_progress: Callable[[int], object] = balancer.watch(bar.update)
        exact = evaluate(best.build_model(device), validation, on_progress=on_progress)
    monitor.log_final_loss(best.step, exact.nats_per_character)
    return exact
