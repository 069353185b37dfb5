"""From what was asked for to a trainer: everything is checked before anything is written."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.config import SettingsSource
from charlm.errors import CheckpointError, TextError, TrainingInterruptedError, UsageError
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.training.conftest import SETTINGS, Make, SendSignal, entries, fake_validation_losses

FIXED = {
    "cell": "gru",
    "embedding_size": 7,
    "hidden_size": 13,
    "num_layers": 1,
    "dropout": 0.1,
    "batch_size": 9,
    "beta1": 0.8,
    "beta2": 0.98,
    "weight_decay": 0.3,
    "validation_fraction": 0.2,
    "test_fraction": 0.1,
    "encoding": "latin-1",
}


@pytest.fixture(scope="module")
def finished_run(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    settings = {"hidden_size": 12, "embedding_size": 12, "max_steps": 2, "sample_length": 0, "threads": 1}
    plan = plan_training(
        TrainingRequest([str(folder / "poem.txt")], [SettingsSource("test", settings)], out=folder / "run")
    )
    plan.trainer(quiet=True).train()
    return folder / "run"


@pytest.mark.parametrize(("name", "value"), FIXED.items())
def test_changed_fixed_setting_is_rejected(make_trainer: Make, finished_run: Path, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"cannot change .*{name}"):
        make_trainer(resume=finished_run, text=finished_run.parent / "poem.txt", **{name: value})


def test_all_changed_fixed_settings_are_reported(make_trainer: Make, finished_run: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_trainer(resume=finished_run, tie_weights=True, batch_size=5, num_layers=7, keep_checkpoints=9)
    assert "tie_weights (False)" in caught.value.message
    assert "batch_size (32)" in caught.value.message
    assert "num_layers (2)" in caught.value.message
    assert "keep_checkpoints" not in caught.value.message


def test_different_text_is_rejected(make_trainer: Make, finished_run: Path, tmp_path: Path, poem: str) -> None:
    other = tmp_path / "other.txt"
    other.write_text(poem.replace("Wölfe", "Wolfe"), encoding="utf-8", newline="")
    with pytest.raises(UsageError, match=r"other\.txt"):
        make_trainer(resume=finished_run, text=other)


def test_same_text_under_other_name_is_accepted(
    make_trainer: Make, finished_run: Path, tmp_path: Path, poem: str
) -> None:
    other = tmp_path / "elsewhere.txt"
    other.write_text(poem, encoding="utf-8", newline="")
    assert make_trainer(resume=finished_run, text=other).counters.steps == 2


def test_resume_with_other_run_folder_is_rejected(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--out .*elsewhere.*{re.escape(str(finished_run))}"):
        plan_training(TrainingRequest([], [], out=tmp_path / "elsewhere", resume=str(finished_run)))


def test_resume_finds_its_text(finished_run: Path) -> None:
    plan = plan_training(TrainingRequest([], [], resume=str(finished_run)))
    assert plan.found.checkpoint is not None
    assert plan.found.checkpoint.model.step == 2


def test_auto_starts_or_resumes(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    first = make_trainer(resume="auto")
    assert first.counters.steps == 0
    send_signal_at_step(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    second = make_trainer(resume="auto")
    assert second.counters.steps == 5
    second.train()
    assert second.counters.steps == 12


def test_auto_restarts_run_without_checkpoint(make_trainer: Make) -> None:
    killed = make_trainer(resume="auto")
    (killed.run / runs.METRICS).write_text('{"step": 2}\n')
    again = make_trainer(resume="auto")
    assert again.counters.steps == 0
    again.train()
    assert entries(again.run)[0]["step"] == 2
    assert len(entries(again.run)[0]) > 1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_training_state_tensor_is_required(make_trainer: Make, cell: str) -> None:
    trainer = make_trainer(cell=cell, max_steps=1)
    trainer.train()
    saved = runs.load_checkpoint(trainer.run)
    state, weights = saved.training_state, saved.model.weights
    assert len(state) == 3 * len(weights) + (2 if cell == "lstm" else 1) + 6
    for name in state:
        saved.training_state = {other: tensor for other, tensor in state.items() if other != name}
        with pytest.raises(CheckpointError, match=f"{re.escape(str(saved.model.folder))}.*{re.escape(name)}") as raised:
            trainer.restore(saved)
        assert raised.value.exit_code == 3
    saved.training_state = {**state, "added_later": torch.zeros(3)}
    trainer.restore(saved)
    for name in weights:
        saved.model.weights = {other: weight for other, weight in weights.items() if other != name}
        with pytest.raises(CheckpointError, match=re.escape(name)):
            trainer.restore(saved)


def test_tensor_of_wrong_shape_is_rejected(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.train()
    saved = runs.load_checkpoint(trainer.run)
    state = saved.training_state
    for name, tensor in state.items():
        saved.training_state = {**state, name: torch.cat([tensor.flatten(), tensor.flatten()])}
        with pytest.raises(CheckpointError, match=re.escape(str(saved.model.folder))):
            trainer.restore(saved)


def test_too_short_text_is_rejected_before_writing(make_trainer: Make, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("ab" * 30)
    with pytest.raises(TextError, match="at least 72"):
        make_trainer(text=short)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [None, "auto"])
def test_foreign_folder_is_rejected_with_hint(
    tmp_path: Path, poem_file: Path, overwrite: bool, resume: str | None
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="thesis: ") as caught:
        plan_training(
            TrainingRequest([str(poem_file)], [], out=tmp_path / "thesis", resume=resume, overwrite=overwrite)
        )
    assert "--out" in caught.value.hint
    assert "--resume" not in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"max_steps": 2, "max_epochs": 100.0}, "--max-steps 2"),
        ({"max_steps": 0, "max_epochs": 0.5}, "--max-epochs 0.5"),
        ({"max_steps": 0, "max_minutes": 0.0001}, "--max-minutes 0.0001"),
        ({"max_steps": 100, "patience": 1}, "--patience 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_complete_run_reports_its_limit(
    poem_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    option: str,
) -> None:
    fake_validation_losses(monkeypatch, [9.0, 1.0, 2.0])
    layers = [SettingsSource("test", {**SETTINGS, "evaluate_every": 1, "sample_length": 0, **settings})]
    plan_training(TrainingRequest([str(poem_file)], layers, out=tmp_path / "run")).train(quiet=True)
    plan = plan_training(TrainingRequest([], [], resume=str(tmp_path / "run")))
    capsys.readouterr()
    plan.train(quiet=False)
    said = capsys.readouterr().err
    assert option in said
    for other in ("--max-steps", "--max-epochs", "--max-minutes", "--patience"):
        assert (other in said) == option.startswith(other)


def test_overwrite_of_missing_and_existing_run(poem_file: Path, tmp_path: Path) -> None:
    for _ in range(2):
        plan = plan_training(
            TrainingRequest(
                [str(poem_file)],
                [SettingsSource("test", {**SETTINGS, "max_steps": 1})],
                out=tmp_path / "x",
                overwrite=True,
            )
        )
        plan.train(quiet=True)
    assert runs.load_model(tmp_path / "x", "latest").step == 1
