"""Training: it learns, it ends when it should, and what it saves is sound."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.errors import TrainingInterruptedError
from charlm.evaluation.loss import evaluate
from charlm.model.masks import MaskKey
from charlm.training import schedule
from charlm.training.trainer import Trainer
from tests.conftest import needs_bf16
from tests.training.conftest import Make, SendSignal, assert_same_training, entries, fake_validation_losses, steps_of

# Learning


def test_loss_decreases(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=60, hidden_size=32, learning_rate=0.02)
    exact = trainer.train()
    assert exact.nats_per_character < math.log(len(trainer.corpus.vocabulary)) - 0.3


def test_result_is_exact_loss_of_best_checkpoint(make_trainer: Make) -> None:
    trainer = make_trainer()
    exact = trainer.train()
    best = runs.load_model(trainer.run, "best")
    part = trainer.corpus.subrange(trainer.corpus.split.validation)
    assert exact == evaluate(best.build_model(torch.device("cpu")), part)
    assert exact.characters == len(trainer.corpus.split.validation)


def test_seed_determines_training(make_trainer: Make, tmp_path: Path) -> None:
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_trainer(run, seed=seed, dropout=0.3, max_steps=4).train()
    a, b, c = (runs.load_checkpoint(tmp_path / run) for run in "abc")
    assert_same_training(a, b)
    assert not torch.equal(a.model.weights["embedding.weight"], c.model.weights["embedding.weight"])


def test_accumulated_windows_average_gradients(make_trainer: Make) -> None:
    # With a state that is zero at both windows' starts it would be the gradient of a batch twice as large; here the
    # gradients of two windows in a row are added up by hand.
    twice = make_trainer("twice", accumulation_steps=2, gradient_clip=0.0)
    by_hand = make_trainer("by_hand", gradient_clip=0.0)
    twice.train_step()
    state = by_hand.state.recurrent
    for number in (0, 1):
        predictions = by_hand.model.predict(by_hand.lanes.window(number), state)
        (predictions.loss_sum() / (2 * predictions.num_targets)).backward()
        state = predictions.state
    for group in by_hand.state.optimizer.param_groups:
        group["lr"] = by_hand.settings.learning_rate / by_hand.settings.warmup_steps
    by_hand.state.optimizer.step()
    assert twice.counters.windows_seen == 2
    for ours, theirs in zip(twice.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_is_carried_and_reset_each_epoch(make_trainer: Make) -> None:
    trainer = make_trainer()
    seen: list[bool] = []
    forward = trainer.model.forward

    def watching(ids: torch.Tensor, state: tuple[torch.Tensor, ...], *others: object) -> Any:
        assert others == (None, "fp32", MaskKey(trainer.settings.seed, window=len(seen)))
        seen.append(any(bool(part.any()) for part in state))
        assert not any(part.requires_grad for part in state)
        return forward(ids, state)

    trainer.model.forward = watching
    a_pass = trainer.lanes.windows_per_epoch
    for _ in range(a_pass + 2):
        trainer.train_step()
    assert seen == [False, *[True] * (a_pass - 1), False, True]


def test_gradients_are_clipped(make_trainer: Make) -> None:
    for clip, norm in ((0.01, 0.01), (0.0, None)):
        trainer = make_trainer(f"clip-{clip}", gradient_clip=clip)
        trainer.state.optimizer.zero_grad = lambda: None  # keep the gradients to look at
        trainer.train_step()
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        after = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]).item()
        expected = float(trainer.gradient_norm) if norm is None else norm
        assert after == pytest.approx(expected, rel=1e-3)
        assert float(trainer.gradient_norm) > 0.01  # what is logged is the norm before clipping


# What must not touch the training


def test_periodic_work_does_not_affect_training(make_trainer: Make) -> None:
    busy = make_trainer("busy", dropout=0.5, evaluate_every=1, save_every_minutes=1e-9, sample_length=30, log_every=1)
    busy.train()
    idle = make_trainer("idle", dropout=0.5, evaluate_every=1000, sample_length=0, log_every=1000)
    idle.train()
    assert steps_of(idle.run) == [12]
    for ours, theirs in zip(busy.model.parameters(), idle.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_masks_do_not_depend_on_the_generator(make_trainer: Make) -> None:
    trainers = [make_trainer(name, dropout=0.5) for name in ("plain", "reseeded")]
    for number in range(4):
        trainers[0].train_step()
        torch.manual_seed(number)
        trainers[1].train_step()
    for ours, theirs in zip(trainers[0].model.parameters(), trainers[1].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# How it ends


def steps_planned(trainer: Trainer) -> int:
    return schedule.total_steps(trainer.settings, trainer.lanes.windows_per_epoch)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_max_steps_is_exact(make_trainer: Make, precision: str) -> None:
    trainer = make_trainer(max_steps=5, precision=precision)
    trainer.train()
    assert trainer.counters.steps == 5
    assert runs.load_model(trainer.run, "latest").step == 5  # and the end is saved, wherever it falls


def test_an_epoch_reads_every_window_once(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=0, max_epochs=1.0)
    assert steps_planned(trainer) == trainer.lanes.windows_per_epoch
    trainer.train()
    assert trainer.counters.steps == trainer.counters.windows_seen == trainer.lanes.windows_per_epoch


def test_first_limit_reached_ends_run(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=3, max_epochs=1.0)
    assert steps_planned(trainer) == 3
    trainer.train()
    assert trainer.counters.steps == 3


def test_max_minutes_ends_run_with_unknown_total_steps(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=100_000, max_minutes=0.002)
    assert steps_planned(trainer) == 0
    trainer.train()
    assert 1 <= trainer.counters.steps < 100_000
    assert trainer.stopwatch.read() >= 0.002 * 60


def test_patience_ends_run_without_improvement(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_validation_losses(monkeypatch, [9.0, 3.0, 2.0, 2.5, 2.0, 2.1])
    trainer = make_trainer(evaluate_every=1, patience=3, max_steps=50)
    trainer.train()
    assert trainer.counters.steps == 5
    assert runs.load_model(trainer.run, "best").step == 2


def test_patience_counter_survives_resume(
    make_trainer: Make, send_signal_at_step: SendSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_validation_losses(monkeypatch, [9.0, 2.0, 3.0])
    trainer = make_trainer(evaluate_every=1, patience=3, max_steps=50)
    send_signal_at_step(trainer, 3)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    resumed = make_trainer(resume=trainer.run)
    resumed.train()
    assert resumed.counters.steps == 4


def test_zero_patience_never_ends_run(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_validation_losses(monkeypatch, [1.0, 1.0, 2.0])
    trainer = make_trainer(evaluate_every=1)
    trainer.train()
    assert trainer.counters.steps == 12


# What is kept


@pytest.mark.parametrize(("keep", "kept"), [(0, [3, 8]), (1, [3, 7, 8]), (2, [3, 6, 7, 8]), (20, list(range(1, 9)))])
def test_best_latest_and_extra_checkpoints_are_kept(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, keep: int, kept: list[int]
) -> None:
    fake_validation_losses(monkeypatch, [9.0, 4.0, 3.0, 1.0, 2.0])
    trainer = make_trainer(max_steps=8, evaluate_every=1, save_every_minutes=1e-9, keep_checkpoints=keep)
    trainer.train()
    assert steps_of(trainer.run) == kept
    assert runs.load_model(trainer.run, "best").step == 3
    assert runs.load_model(trainer.run, "latest").step == 8


def test_only_new_best_is_saved(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_validation_losses(monkeypatch, [9.0, 4.0, 5.0, 3.0, 6.0])
    trainer = make_trainer(max_steps=8, evaluate_every=2, keep_checkpoints=20)
    trainer.train()
    assert steps_of(trainer.run) == [2, 6, 8]


def test_resumed_checkpoint_is_kept_as_best(
    make_trainer: Make, send_signal_at_step: SendSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_validation_losses(monkeypatch, [9.0, 1.0, 2.0])
    trainer = make_trainer(evaluate_every=2, keep_checkpoints=0)
    send_signal_at_step(trainer, 5)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    make_trainer(resume=trainer.run).train()
    assert steps_of(trainer.run) == [2, 12]


# Evaluating now and then


def steps_evaluated(run: Path) -> list[int]:
    return [entry["step"] for entry in entries(run) if "loss_validation" in entry]


@pytest.mark.parametrize(
    ("step_seconds", "evaluation_seconds"), [(0.1, 0.001), (0.1, 500.0), (30.0, 1.0)], ids=["quick", "slow", "busy"]
)
def test_auto_evaluation_steps_do_not_depend_on_time(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, step_seconds: float, evaluation_seconds: float
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    trainer = make_trainer(evaluate_every="auto", max_steps=40)
    whole_step, whole_evaluation = trainer.train_step, trainer.evaluate

    def step() -> None:
        clock[0] += step_seconds
        whole_step()

    def evaluation() -> None:
        clock[0] += evaluation_seconds
        whole_evaluation()

    trainer.train_step, trainer.evaluate = step, evaluation
    trainer.train()
    assert steps_evaluated(trainer.run) == [2, 4, 7, 11, 15, 19, 24, 29, 35, 40]


@pytest.mark.parametrize("stopped_at", [3, 9, 21])  # before, at and after an evaluation
def test_auto_evaluation_resume_equals_uninterrupted(
    make_trainer: Make, send_signal_at_step: SendSignal, stopped_at: int
) -> None:
    settings = {"evaluate_every": "auto", "max_steps": 24, "dropout": 0.3}
    whole = make_trainer("whole", **settings)
    whole.train()
    first = make_trainer("parts", **settings)
    send_signal_at_step(first, stopped_at)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    second = make_trainer(resume=first.run)
    second.train()
    assert steps_evaluated(second.run) == steps_evaluated(whole.run)
    assert_same_training(runs.load_checkpoint(second.run), runs.load_checkpoint(whole.run))
    assert runs.load_model(second.run, "best").step == runs.load_model(whole.run, "best").step


def test_auto_evaluation_follows_extended_schedule(make_trainer: Make) -> None:
    short = make_trainer(evaluate_every="auto", max_steps=4)
    short.train()
    longer = make_trainer(resume=short.run, max_steps=20)
    longer.train()
    assert steps_evaluated(longer.run) == [1, 2, 3, 4, 6, 10, 15, 20]  # [2, 6, 10, 15, 20] if it had not stopped


def test_auto_evaluation_with_minutes_only(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("charlm.training.schedule.MIN_INTERVAL", 10)
    trainer = make_trainer(evaluate_every="auto", max_steps=0, max_minutes=1.0)
    whole_step = trainer.train_step

    def step() -> None:
        clock[0] += 2.0
        whole_step()

    trainer.train_step = step
    trainer.train()
    assert steps_evaluated(trainer.run) == [4, 9, 17, 26, 30]


def test_evaluations_at_configured_steps_and_at_end(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=10, evaluate_every=4)
    trainer.train()
    assert steps_evaluated(trainer.run) == [4, 8, 10]


def test_training_time_excludes_evaluation_and_saving(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    trainer = make_trainer(max_steps=6, evaluate_every=2)
    whole_step, whole_evaluation, whole_save = trainer.train_step, trainer.evaluate, trainer.save

    def step() -> None:
        clock[0] += 1.0
        whole_step()

    def evaluation() -> None:
        clock[0] += 100.0
        whole_evaluation()

    def save() -> None:
        clock[0] += 1000.0
        whole_save()

    trainer.train_step, trainer.evaluate, trainer.save = step, evaluation, save
    trainer.train()
    assert [entry["progress_training_seconds"] for entry in entries(trainer.run) if "loss_train" in entry] == [2, 4, 6]
    assert runs.load_model(trainer.run, "latest").progress.training_seconds == 6


def test_learning_rate_is_scaled_with_the_length_of_windows(make_trainer: Make) -> None:
    trainer = make_trainer(length_variation=0.5, accumulation_steps=2, warmup_steps=0, schedule="constant")
    lengths = []
    for step in range(6):
        windows = [trainer.lanes.window(2 * step + number) for number in range(2)]
        lengths.append(sum(len(window.inputs) for window in windows) / 2)
        trainer.train_step()
        rate = trainer.state.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(0.01 * lengths[-1] / 64)
    assert len(set(lengths)) > 2
