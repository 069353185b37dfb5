"""An interruption changes nothing of what is learned: resumed equals uninterrupted, to the last bit."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.config import SETTINGS_ADDED_LATER
from charlm.errors import TrainingInterruptedError, UsageError
from charlm.model.language_model import Predictions
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.model.test_native import needs_native
from tests.test_checkpoint import rewrite
from tests.training.conftest import Make, SendSignal, assert_same_training, entries, steps_of, watch_predictions

TIMED = ("throughput_characters_per_second", "progress_training_seconds")  # never the same twice


def without_times(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in entries(run)]


@pytest.mark.parametrize("stopped_at", [5, 8])
@pytest.mark.parametrize(
    ("cell", "kernel"),
    [("lstm", "torch"), pytest.param("lstm", "native", marks=needs_native), ("gru", "auto"), ("rnn", "auto")],
)
def test_resumed_run_is_bit_identical_to_uninterrupted(
    make_trainer: Make, send_signal_at_step: SendSignal, cell: str, kernel: str, stopped_at: int
) -> None:
    # 9 windows an epoch, 2 a step: the epoch ends inside step 5; every other step is logged, so 5 is amid a mean
    settings = {"cell": cell, "kernel": kernel, "dropout": 0.3, "accumulation_steps": 2}
    whole = make_trainer("whole", **settings)
    assert whole.lanes.windows_per_epoch < 2 * 5
    exact = whole.train()

    first = make_trainer("parts", **settings)
    send_signal_at_step(first, stopped_at)
    with pytest.raises(TrainingInterruptedError) as caught:
        first.train()
    assert caught.value.exit_code == 130
    assert f"--resume {first.run}" in str(caught.value)
    assert runs.load_model(first.run, "latest").step == stopped_at

    torch.manual_seed(99)  # another process would not have these random numbers
    second = make_trainer(resume=first.run)
    assert second.counters.steps == stopped_at
    assert second.train() == exact
    assert_same_training(runs.load_checkpoint(second.run), runs.load_checkpoint(whole.run))
    assert without_times(second.run) == without_times(whole.run)
    assert [entry["step"] for entry in entries(whole.run) if "loss_train" in entry] == [2, 4, 6, 8, 10, 12]


RECIPES: list[dict[str, Any]] = [
    {"dropout": 0.3, "locked_dropout": True, "input_dropout": 0.2, "weight_dropout": 0.3, "embedding_dropout": 0.1},
    {"optimizer": "muon", "average_decay": 0.9, "schedule": "wsd", "document_separator": "\n", "locked_dropout": True},
    {"length_variation": 0.5, "reset_probability": 0.2, "accumulation_steps": 2},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["dropout", "optimizer", "windows"])
def test_resumed_run_is_bit_identical_with_any_method(
    make_trainer: Make, send_signal_at_step: SendSignal, recipe: dict[str, Any]
) -> None:
    whole = make_trainer("whole", **recipe)
    exact = whole.train()
    first = make_trainer("parts", **recipe)
    send_signal_at_step(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    torch.manual_seed(99)
    second = make_trainer(resume=first.run)
    assert second.train() == exact
    assert_same_training(runs.load_checkpoint(second.run), runs.load_checkpoint(whole.run))
    assert without_times(second.run) == without_times(whole.run)


def test_repeatedly_interrupted_run_is_bit_identical(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    whole = make_trainer("whole", dropout=0.3, tie_weights=True, embedding_size=12)
    whole.train()
    trainer = make_trainer("parts", dropout=0.3, tie_weights=True, embedding_size=12)
    for stopped_at in (1, 4, 5, 11):
        send_signal_at_step(trainer, stopped_at)
        with pytest.raises(TrainingInterruptedError):
            trainer.train()
        trainer = make_trainer(resume=trainer.run)
    trainer.train()
    assert_same_training(runs.load_checkpoint(trainer.run), runs.load_checkpoint(whole.run))
    assert without_times(trainer.run) == without_times(whole.run)


def test_resume_from_older_checkpoint_is_bit_identical(make_trainer: Make) -> None:
    trainer = make_trainer(dropout=0.3, keep_checkpoints=20, save_every_minutes=1e-9)
    trainer.train()
    last, logged = runs.load_checkpoint(trainer.run), without_times(trainer.run)
    again = make_trainer(resume=trainer.run / "step-00000007")
    assert steps_of(trainer.run) == [1, 2, 3, 4, 5, 6, 7]
    again.train()
    assert_same_training(runs.load_checkpoint(trainer.run), last)
    assert without_times(trainer.run) == logged


def test_checkpoint_without_added_settings_resumes_as_before(
    make_trainer: Make, send_signal_at_step: SendSignal
) -> None:
    whole = make_trainer("whole", dropout=0.3)
    whole.train()
    first = make_trainer("parts", dropout=0.3)
    send_signal_at_step(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()

    def remove_added(config: dict[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in config["settings"].items() if name not in SETTINGS_ADDED_LATER}
        assert len(settings) + len(SETTINGS_ADDED_LATER) == len(config["settings"])
        return {**config, "settings": settings}

    rewrite(first.run / "step-00000005", "config.json", remove_added)
    second = make_trainer(resume=first.run)
    assert second.settings.model_dump(include=set(SETTINGS_ADDED_LATER)) == SETTINGS_ADDED_LATER
    second.train()
    assert_same_training(runs.load_checkpoint(second.run), runs.load_checkpoint(whole.run))


def test_run_can_be_extended(make_trainer: Make, tmp_path: Path) -> None:
    make_trainer(max_steps=4).train()
    longer = make_trainer(resume=tmp_path / "run", max_steps=7)
    longer.train()
    assert longer.counters.steps == 7
    assert runs.load_model(longer.run, "latest").settings.max_steps == 7


def test_sigterm_saves_checkpoint(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    trainer = make_trainer()
    send_signal_at_step(trainer, 3, signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError) as caught:
        trainer.train()
    assert caught.value.exit_code == 143
    assert steps_of(trainer.run) == [3]


def test_signal_stops_after_step_and_restores_handlers(make_trainer: Make) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = make_trainer()

    def with_signal(predictions: Predictions) -> Predictions:
        if trainer.counters.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return predictions

    watch_predictions(trainer, with_signal)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    assert runs.load_model(trainer.run, "latest").step == 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_second_signal_stops_immediately(make_trainer: Make) -> None:
    trainer = make_trainer()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.train_step = twice
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 130
    assert steps_of(trainer.run) == []


def test_resume_with_more_text_suggests_finetuning(make_trainer: Make, poem_file: Path) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    poem_file.write_text(poem_file.read_text(encoding="utf-8") + "And one line more.\n", encoding="utf-8")
    second = poem_file.with_name("second.txt")
    second.write_text("Another text.\n" * 50)
    for given in ([], [str(poem_file)], [str(poem_file), str(second)]):
        with pytest.raises(UsageError, match=r"poem\.txt") as raised:
            plan_training(TrainingRequest(given, [], resume=str(trainer.run)))
        assert "--init-from" in raised.value.hint
        assert str(trainer.run) in raised.value.hint
