"""A loss or gradient that is no finite number never reaches the weights, nor a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.errors import DivergedError, TrainingInterruptedError
from charlm.model.language_model import Predictions
from charlm.training.trainer import Trainer
from tests.training.conftest import (
    Make,
    SendSignal,
    entries,
    make_trainer,
    send_signal_at_step,
    steps_of,
    watch_predictions,
    with_infinite_loss,
)

__all__ = ["make_trainer", "send_signal_at_step"]  # fixtures


def infinite_loss(trainer: Trainer, steps: set[int], times: int = 10**9) -> None:
    """Makes the loss of these steps infinite, so many times in all."""
    left = [times]

    def watch(predictions: Predictions) -> Predictions:
        if trainer.counters.steps + 1 in steps and left[0]:
            left[0] -= 1
            return with_infinite_loss(predictions)
        return predictions

    watch_predictions(trainer, watch)


def test_non_finite_step_changes_only_the_counter(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=5)
    infinite_loss(trainer, {5})
    step, before = trainer.step, {}

    def remembering() -> bool:
        if trainer.counters.steps == 4:
            before.update({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
            before.update({name: t.clone() for name, t in trainer.state.tensors().items() if "optimizer" in name})
        return step()

    trainer.step = remembering
    trainer.train()
    after = {**trainer.model.state_dict(), **trainer.state.tensors()}
    assert before
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert trainer.state.consecutive_skips.item() == 1
    assert all(part.isfinite().all() for part in trainer.state.recurrent)


def test_single_infinite_loss_is_skipped(make_trainer: Make) -> None:
    trainer = make_trainer()
    infinite_loss(trainer, {5}, times=1)
    exact = trainer.train()
    assert math.isfinite(exact.nats_per_character)
    assert trainer.counters.steps == 12
    assert trainer.counters.rollbacks == 0
    assert [entry["step"] for entry in entries(trainer.run) if "loss_train" in entry] == [2, 4, 6, 8, 10, 12]


def test_repeated_infinite_loss_rolls_back(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=20)
    infinite_loss(trainer, set(range(5, 21)), times=6)
    trainer.train()
    assert trainer.counters.steps == 20
    assert trainer.counters.rollbacks == 1
    assert runs.load_model(trainer.run, "latest").progress.learning_rate_scale == 0.5
    logged = [entry["step"] for entry in entries(trainer.run) if "loss_train" in entry]
    assert logged == sorted(set(logged))
    assert_checkpoints_are_finite(trainer.run)


def test_permanent_infinite_loss_ends_run_and_keeps_best(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=30)
    infinite_loss(trainer, set(range(6, 31)))
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert trainer.counters.rollbacks == 2
    assert runs.list_checkpoints(trainer.run)
    assert_checkpoints_are_finite(trainer.run)


def test_divergence_before_first_save_restarts_training(make_trainer: Make) -> None:
    trainer = make_trainer(evaluate_every=100, max_steps=10)
    infinite_loss(trainer, set(range(1, 11)), times=6)
    trainer.train()
    assert trainer.counters.steps == 10
    assert trainer.counters.rollbacks == 1


def diverge(trainer: Trainer, step: int) -> None:
    """Has the weights stop being numbers from ``step`` on."""
    whole_step = trainer.train_step

    def step_that_spoils() -> None:
        if trainer.counters.steps + 1 == step:
            trainer.model.output_bias.data.fill_(math.nan)
        whole_step()

    trainer.train_step = step_that_spoils


def assert_checkpoints_are_finite(run: Path) -> None:
    for folder in runs.list_checkpoints(run):
        assert all(weight.isfinite().all() for weight in runs.load_model(folder).weights.values()), folder.name


def test_divergence_ends_run_and_keeps_checkpoints(make_trainer: Make) -> None:
    trainer = make_trainer()
    diverge(trainer, 5)
    with pytest.raises(DivergedError, match="step 6") as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert "0.0025" in caught.value.hint
    assert steps_of(trainer.run) == [4]
    assert_checkpoints_are_finite(trainer.run)
    assert "NaN" not in (trainer.run / runs.METRICS).read_text()
    assert make_trainer(resume=trainer.run).counters.steps == 4


@pytest.mark.parametrize(
    "settings",
    [{"evaluate_every": 7}, {"evaluate_every": 7, "sample_length": 0}, {"save_every_minutes": 1e-9}, {"max_steps": 7}],
    ids=["evaluating with a sample", "evaluating without", "saving", "the end"],
)
def test_divergence_is_detected_at_any_periodic_work(make_trainer: Make, settings: dict[str, Any]) -> None:
    trainer = make_trainer(**{"log_every": 100, "evaluate_every": 100, **settings})
    diverge(trainer, 6)
    with pytest.raises(DivergedError):
        trainer.train()
    assert_checkpoints_are_finite(trainer.run)
    assert "NaN" not in (trainer.run / runs.METRICS).read_text()


def test_signal_after_divergence_does_not_save_nonfinite_weights(
    make_trainer: Make, send_signal_at_step: SendSignal
) -> None:
    trainer = make_trainer(log_every=100, evaluate_every=100)
    diverge(trainer, 3)
    send_signal_at_step(trainer, 4)
    with pytest.raises((DivergedError, TrainingInterruptedError)):
        trainer.train()
    assert_checkpoints_are_finite(trainer.run)
