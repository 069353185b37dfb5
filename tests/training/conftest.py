"""Fixtures: a trainer of a small model on the poem, and helpers to read its run."""

import json
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.checkpoint.contents import Checkpoint
from charlm.config import SettingsSource
from charlm.evaluation.loss import Evaluation
from charlm.model.language_model import Predictions
from charlm.training import trainer as trainer_module
from charlm.training import validation as validation_module
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from charlm.training.trainer import Trainer

SETTINGS: Mapping[str, Any] = {
    "hidden_size": 12,
    "embedding_size": 6,
    "num_layers": 2,
    "dropout": 0.0,
    "batch_size": 8,
    "sequence_length": 64,
    "learning_rate": 0.01,
    "warmup_steps": 4,
    "max_steps": 12,
    "log_every": 2,
    "evaluate_every": 4,
    "sample_length": 5,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}

Make = Callable[..., Trainer]
SendSignal = Callable[..., None]


def entries(run: Path) -> list[dict[str, Any]]:
    path = run / runs.METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps_of(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in runs.list_checkpoints(run))


def assert_same_training(actual: Checkpoint, expected: Checkpoint) -> None:
    """Assert that weights, optimizer, carried state and generators are bit-identical."""
    assert actual.model.step == expected.model.step
    for one, other in (
        (actual.model.weights, expected.model.weights),
        (actual.training_state, expected.training_state),
    ):
        assert set(one) == set(other)
        for name in one:
            assert torch.equal(one[name], other[name]), name
    assert actual.model.metrics == expected.model.metrics


def fake_validation_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make evaluations return these losses, first the initial one, and the last one repeatedly."""
    left = list(losses)

    def fake(*args: object, **options: object) -> Evaluation:
        return Evaluation(left.pop(0) if len(left) > 1 else left[0], 1)

    for module in (trainer_module, validation_module):
        monkeypatch.setattr(module, "evaluate", fake)


def watch_predictions(trainer: Trainer, watch: Callable[[Predictions], Predictions]) -> None:
    """Pass all predictions of training steps through ``watch``, even if the model is replaced."""
    whole_step = trainer.train_step

    def watched_step() -> None:
        model, predict = trainer.model, trainer.model.predict
        model.predict = lambda *given: watch(predict(*given))  # type: ignore[method-assign]
        try:
            whole_step()
        finally:
            del model.predict

    trainer.train_step = watched_step  # type: ignore[method-assign]


def with_infinite_loss(predictions: Predictions) -> Predictions:
    return replace(predictions, logits=predictions.logits * math.inf)


@pytest.fixture
def make_trainer(poem_file: Path, tmp_path: Path) -> Make:
    """Makes a trainer of the run ``tmp_path / run`` with some settings changed, or one that resumes ``resume``."""

    def make(run: str = "run", resume: Path | str | None = None, text: Path = poem_file, **changes: Any) -> Trainer:
        settings = changes if resume not in (None, "auto") else {**SETTINGS, **changes}
        resume_path = None if resume is None else str(resume)
        out = tmp_path / run if resume in (None, "auto") else None
        return plan_training(
            TrainingRequest([str(text)], [SettingsSource("test", settings)], out=out, resume=resume_path)
        ).trainer(quiet=True)

    return make


@pytest.fixture
def send_signal_at_step() -> SendSignal:
    """Makes a trainer receive a signal during a step."""

    def at(trainer: Trainer, step: int, number: int = signal.SIGINT) -> None:
        whole_step = trainer.train_step

        def step_with_signal() -> None:
            whole_step()
            if trainer.counters.steps == step:
                trainer.stop_signals.received = number

        trainer.train_step = step_with_signal  # type: ignore[method-assign]

    return at
