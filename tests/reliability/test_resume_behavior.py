"""What a resume keeps beside the weights, and what it says."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from charlm import runs
from charlm.checkpoint import environment
from charlm.config import SettingsSource, TrainSettings
from charlm.errors import CharlmError, TrainingInterruptedError
from charlm.model.device import report_out_of_memory
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.training.conftest import (
    SETTINGS,
    Make,
    SendSignal,
    assert_same_training,
    entries,
    fake_validation_losses,
    make_trainer,
    send_signal_at_step,
)

__all__ = ["make_trainer", "send_signal_at_step"]  # fixtures


def test_patience_counter_survives_resume(
    make_trainer: Make, send_signal_at_step: SendSignal, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    settings = {"max_steps": 20, "evaluate_every": 2, "patience": 3}
    fake_validation_losses(monkeypatch, losses)
    alone = make_trainer("alone", **settings)
    alone.train()
    fake_validation_losses(monkeypatch, losses[:4])  # before learning, then at the steps 2, 4 and 6
    stopped = make_trainer("stopped", **settings)
    send_signal_at_step(stopped, 7)
    with pytest.raises(TrainingInterruptedError):
        stopped.train()
    fake_validation_losses(monkeypatch, losses[4:])
    resumed = make_trainer(resume=stopped.run)
    resumed.train()
    assert alone.counters.steps == resumed.counters.steps == 8
    assert_same_training(runs.load_checkpoint(alone.run), runs.load_checkpoint(resumed.run))


def test_training_minutes_survive_resume(make_trainer: Make, send_signal_at_step: SendSignal) -> None:
    trainer = make_trainer(max_steps=0, max_minutes=10.0)
    send_signal_at_step(trainer, 5)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    spent = runs.load_model(trainer.run, "latest").progress.training_seconds
    resumed = make_trainer(resume=trainer.run)
    assert resumed.stopwatch.read() == spent > 0
    assert resumed.policy.progress(resumed.counters, resumed.seconds) == pytest.approx(spent / 600)


def test_extended_run_with_constant_rate_equals_long_run(make_trainer: Make) -> None:
    settings = {"schedule": "constant", "dropout": 0.3, "warmup_steps": 3}
    make_trainer("long", max_steps=12, **settings).train()
    short = make_trainer("short", max_steps=7, **settings)
    short.train()
    longer = make_trainer(resume=short.run, max_steps=12)
    longer.train()
    ours, theirs = runs.load_checkpoint(longer.run), runs.load_checkpoint(longer.run.parent / "long")
    ours.model.metrics = theirs.model.metrics  # the short one's end was evaluated too
    assert_same_training(ours, theirs)


def test_resume_in_changed_environment_warns(
    make_trainer: Make, poem_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    trainer.train()
    same = plan_training(TrainingRequest([str(poem_file)], [SettingsSource("test", {})], resume=str(trainer.run)))
    assert not {"threads", "processor"} & set(" ".join(same.startup_messages()).replace("(", " ").split())
    other = plan_training(
        TrainingRequest([str(poem_file)], [SettingsSource("test", {"threads": 7})], resume=str(trainer.run))
    )
    assert "threads 1 → 7" in " ".join(other.startup_messages())
    here = environment.processor_name()
    monkeypatch.setattr(environment, "processor_name", lambda: "Another CPU (AVX512)")
    assert f"processor {here} → Another CPU (AVX512)" in " ".join(same.startup_messages())


def test_run_killed_before_first_save_restarts_with_its_settings(make_trainer: Make) -> None:
    trainer = make_trainer(hidden_size=24)
    assert not runs.list_checkpoints(trainer.run)
    again = plan_training(
        TrainingRequest([], [SettingsSource("test", {"max_steps": 2})], resume=str(trainer.run))
    ).trainer(quiet=True)
    again.train()
    assert again.run == trainer.run
    assert again.settings.hidden_size == 24
    assert again.settings.max_steps == 2
    assert [entry["step"] for entry in entries(again.run) if "loss_train" in entry] == [2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried …"),
    ],
)
def test_out_of_memory_error_names_settings(error: Exception) -> None:
    with pytest.raises(CharlmError, match="--batch-size") as caught, report_out_of_memory(TrainSettings()):
        raise error
    assert caught.value.exit_code == 1


def test_unrelated_runtime_error_is_not_reported_as_oom() -> None:
    with pytest.raises(RuntimeError, match="shape"), report_out_of_memory(TrainSettings()):
        raise RuntimeError("shape")


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as ballast:
        while ballast.write(b"x" * 4096):
            pass


def test_full_disk_ends_training_and_keeps_checkpoints(make_trainer: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a small file system")  # the limit on files in test_disk.py stands in
    try:
        plan = plan_training(
            TrainingRequest(
                [str(tmp_path / "poem.txt")],
                [
                    SettingsSource(
                        "test", {**SETTINGS, "max_steps": 30, "save_every_minutes": 1e-9, "keep_checkpoints": 0}
                    )
                ],
                out=disk / "run",
            )
        )
        trainer = plan.trainer(quiet=True)
        step = trainer.train_step

        def filling() -> None:
            step()
            if trainer.counters.steps == 10:
                fill(disk / "ballast")
            if trainer.counters.steps == 20:
                (disk / "ballast").unlink()

        trainer.train_step = filling  # type: ignore[method-assign]
        with pytest.warns(match="No space left"):
            trainer.train()
        assert trainer.counters.steps == 30
        assert runs.load_model(disk / "run", "latest").step == 30
    finally:
        subprocess.run(["umount", disk], check=True)
