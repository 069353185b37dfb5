"""Every target weighs the same: in a step over several windows, and in the mean that is logged."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm import runs
from charlm.config import OptimizationSettings
from charlm.model.language_model import Predictions
from charlm.training import schedule
from tests.training.conftest import Make, entries, watch_predictions


@pytest.fixture
def uneven(tmp_path: Path, poem: str) -> Path:
    """A text whose epochs end in a window of a few characters."""
    path = tmp_path / "uneven.txt"
    path.write_text(poem[: 10 * 8 * 64 // 9 + 40], encoding="utf-8")
    return path


def test_uneven_windows_weigh_targets_equally(make_trainer: Make, uneven: Path) -> None:
    trainer = make_trainer(text=uneven, accumulation_steps=3, batch_size=2, sequence_length=50, gradient_clip=0.0)
    number = trainer.lanes.windows_per_epoch - 2  # two windows, the second one shorter, and one of the next epoch
    windows = [trainer.lanes.window(number + i) for i in range(3)]
    counts = [window.num_targets for window in windows]
    assert len(set(counts)) > 1
    trainer.counters.windows_seen = number
    by_hand = make_trainer("by-hand", text=uneven, accumulation_steps=3, batch_size=2, sequence_length=50)
    total, state = torch.zeros(()), by_hand.state.recurrent
    for window in windows:
        predictions = by_hand.model.predict(window, state)
        total, state = total + predictions.loss_sum(), predictions.state
    (total / sum(counts)).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in by_hand.model.parameters()])
    trainer.train_step()
    assert trainer.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-5)
    loss_sum, logged_targets, taken, skipped = trainer.state.since_log.tolist()
    assert (logged_targets, taken, skipped) == (sum(counts), 1, 0)
    assert loss_sum / logged_targets == pytest.approx((total / sum(counts)).item(), rel=1e-5)


def test_logged_loss_is_mean_over_all_targets(make_trainer: Make, uneven: Path) -> None:
    settings = {"text": uneven, "batch_size": 2, "sequence_length": 50, "learning_rate": 1e-9, "weight_decay": 0.0}
    trainer = make_trainer(log_every=7, max_steps=7, evaluate_every=100, **settings)
    sums = [0.0, 0]

    def record(predictions: Predictions) -> Predictions:
        sums[0] += predictions.loss_sum().item()
        sums[1] += predictions.num_targets
        return predictions

    watch_predictions(trainer, record)
    trainer.train()
    (entry,) = [entry for entry in entries(trainer.run) if "loss_train" in entry]
    assert entry["loss_train"] == pytest.approx(sums[0] / sums[1], rel=1e-6)


@given(st.floats(0.01, 20), st.integers(1, 400), st.integers(1, 9))
def test_total_steps_matches_training(epochs: float, windows: int, accumulated: int) -> None:
    settings = OptimizationSettings(max_steps=0, max_epochs=epochs, accumulation_steps=accumulated)
    total = schedule.total_steps(settings, windows)

    def progress(steps: int) -> float:
        return schedule.progress(settings, steps, steps * accumulated / windows, 0.0)

    assert progress(total) >= 1
    assert total == 1 or progress(total - 1) < 1


def test_whole_number_of_epochs() -> None:
    assert schedule.total_steps(OptimizationSettings(max_steps=0, max_epochs=1.1), 10) == 11


def test_resume_cannot_change_seed(make_trainer: Make) -> None:
    from charlm.errors import UsageError

    trainer = make_trainer(max_steps=4)
    trainer.train()
    with pytest.raises(UsageError, match="seed"):
        make_trainer(resume=trainer.run, seed=7)
    assert runs.load_model(trainer.run, "latest").settings.seed == 1
