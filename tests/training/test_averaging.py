"""Averaged weights: against a plain average and PyTorch's, as the model of a checkpoint, and exact on a resume."""

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from charlm import runs
from charlm.errors import TrainingInterruptedError, UsageError
from charlm.evaluation.loss import choose_lanes, evaluate
from charlm.training.averaging import decay_after
from tests.training.conftest import Make, SendSignal, assert_same_training, entries


def training_losses(run: Path) -> list[float]:
    return [entry["loss_train"] for entry in entries(run) if "loss_train" in entry]


def test_average_matches_plain_formula(make_trainer: Make) -> None:
    trainer = make_trainer(average_decay=0.5)
    expected = {name: weight.detach().double() for name, weight in trainer.model.named_parameters()}
    for steps in range(1, 8):
        trainer.train_step()
        decay = min(0.5, (1 + steps) / (10 + steps))
        for name, weight in trainer.model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach().double()
    for name, weight in trainer.state.result.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], msg=name)
    assert decay_after(10**6, 0.999) == 0.999


def test_average_matches_that_of_pytorch(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.training.averaging.decay_after", lambda steps, decay: decay)
    trainer = make_trainer(average_decay=0.75)
    reference = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    reference.update_parameters(trainer.model)  # the first one is a copy: the initial weights
    for _ in range(5):
        trainer.train_step()
        reference.update_parameters(trainer.model)
    for average, expected in zip(trainer.state.result.parameters(), reference.module.parameters(), strict=True):
        assert torch.equal(average, expected)


@pytest.mark.parametrize("tie_weights", [False, True])
def test_resumed_run_is_bit_identical(make_trainer: Make, send_signal_at_step: SendSignal, tie_weights: bool) -> None:
    settings = {"average_decay": 0.9, "dropout": 0.2, "tie_weights": tie_weights, "embedding_size": 12}
    whole = make_trainer("whole", **settings)
    exact = whole.train()
    first = make_trainer("parts", **settings)
    send_signal_at_step(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    second = make_trainer(resume=first.run)
    assert second.train() == exact
    checkpoint = runs.load_checkpoint(second.run)
    assert_same_training(checkpoint, runs.load_checkpoint(whole.run))
    for name, weight in checkpoint.model.weights.items():
        assert not torch.equal(checkpoint.training_state[f"trained_weight.{name}"], weight)


def test_average_is_evaluated_and_saved_but_not_trained(make_trainer: Make) -> None:
    plain, averaged = make_trainer("plain"), make_trainer("averaged", average_decay=0.9)
    plain.train()
    averaged.train()
    last = runs.load_checkpoint(averaged.run)
    for name, weight in runs.load_model(plain.run, "latest").weights.items():  # the average does not affect training
        assert torch.equal(last.training_state[f"trained_weight.{name}"], weight)
    lanes = choose_lanes(len(averaged.validation))
    loss = evaluate(last.model.build_model(averaged.device), averaged.validation, lanes).nats_per_character
    assert last.model.metrics == {"loss_validation": pytest.approx(loss)}
    assert training_losses(plain.run) == training_losses(averaged.run)


def test_rollback_restores_average(make_trainer: Make) -> None:
    trainer = make_trainer(average_decay=0.9)
    for _ in range(3):
        trainer.train_step()
    trainer.save()
    weights = {name: weight.clone() for name, weight in trainer.state.result.state_dict().items()}
    trainer.train_step()
    trainer.roll_back()
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.state.result.state_dict().items())


def test_resuming_cannot_change_average_or_optimizer(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.train()
    for change in ({"average_decay": 0.9}, {"optimizer": "muon"}):
        with pytest.raises(UsageError, match=next(iter(change))):
            make_trainer(resume=trainer.run, **change)
