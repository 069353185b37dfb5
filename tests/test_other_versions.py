"""Checkpoints of other format versions: refused by name, never taken for damaged, removed only by ``--overwrite``."""

import json
import re
from pathlib import Path

import pytest

from charlm import config, runs
from charlm.checkpoint import loading
from charlm.checkpoint.contents import FORMAT_VERSION
from charlm.config import SettingsSource
from charlm.errors import CharlmWarning, CheckpointError, UsageError, VersionError
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli, cli
from tests.other_versions import CONFIG_TOML_1, CORPUS_1, WRITERS, snapshot, write_version_1, write_version_3
from tests.reliability.test_divergence import infinite_loss
from tests.test_checkpoint import rewrite
from tests.test_runs import SETTINGS as SETTINGS_2
from tests.test_runs import add, damage, make, run, step, steps
from tests.training.conftest import SETTINGS, Make, make_trainer

__all__ = ["cli", "make_trainer", "run"]  # fixtures

each_version = pytest.mark.parametrize("version", WRITERS)
each_choice = pytest.mark.parametrize("which", ["best", "latest"])


def plant(run: Path, number: int, version: int) -> Path:
    WRITERS[version](step(run, number))
    return step(run, number)


def run_of_version_1(path: Path) -> Path:
    """A run folder as charlm left it when it wrote format 1."""
    write_version_1(step(path, 12))
    (path / "config.toml").write_text(CONFIG_TOML_1)
    (path / "corpus.json").write_text(json.dumps(CORPUS_1))
    (path / "metrics.jsonl").write_text('{"step": 12, "loss_train": 1.5}\n')
    return path


# One checkpoint


@each_version
def test_other_version_error_names_both_versions(tmp_path: Path, version: int) -> None:
    folder = plant(tmp_path, 12, version)
    with pytest.raises(VersionError, match=f"^{re.escape(str(folder))}: ") as raised:
        loading.load_checkpoint(folder)
    assert raised.value.exit_code == 3
    assert f"format {version}" in raised.value.message
    assert f"format {FORMAT_VERSION}" in raised.value.message
    assert raised.value.hint


def test_older_and_newer_versions_have_different_messages(tmp_path: Path) -> None:
    messages = []
    for version, other in ((1, 3), (3, 1)):
        with pytest.raises(VersionError) as raised:
            loading.load_checkpoint(plant(tmp_path, version, version))
        text = str(raised.value).replace(str(step(tmp_path, version)), "").replace(f"format {version}", "format …")
        messages.append(text)
        assert f"format {other}" not in text
    assert messages[0] != messages[1]
    assert "older" in messages[0]
    assert "newer" in messages[1]


@pytest.mark.parametrize("version", [None, "2", 2.0, True, 0, -1, [2]], ids=repr)
def test_invalid_version_number_is_damage(run: Path, version: object) -> None:
    add(run, s12=1.0)
    rewrite(step(run, 12), "config.json", lambda config: {**config, "format_version": version})
    with pytest.raises(CheckpointError, match="format_version") as raised:
        loading.load_checkpoint(step(run, 12))
    assert not isinstance(raised.value, VersionError)


def test_damage_does_not_hide_the_version(tmp_path: Path) -> None:
    folder = plant(tmp_path, 12, 1)
    damage(folder)
    with pytest.raises(VersionError):
        loading.load_checkpoint(folder)


def test_version_not_confirmed_by_manifest_is_damage(run: Path) -> None:
    add(run, s12=1.0)
    path = step(run, 12) / "config.json"
    path.write_bytes(path.read_bytes().replace(b'"format_version": 2', b'"format_version": 3'))
    with pytest.raises(CheckpointError) as raised:
        loading.load_checkpoint(step(run, 12))
    assert not isinstance(raised.value, VersionError)


def test_unknown_setting_means_newer_version(run: Path) -> None:
    add(run, s12=1.0)
    settings = {**SETTINGS_2.model_dump(), "zoneout": 0.1}
    rewrite(step(run, 12), "config.json", lambda config: {**config, "settings": settings})
    with pytest.raises(VersionError, match=r"newer.*zoneout"):
        loading.load_checkpoint(step(run, 12))


# A run


@each_version
@pytest.mark.parametrize("which", ["best", "latest", "12"])
def test_run_of_other_version_is_rejected(tmp_path: Path, version: int, which: str) -> None:
    folder = plant(tmp_path, 12, version)
    for path in (tmp_path, folder):
        with pytest.raises(VersionError, match="step-00000012: "):
            runs.load_model(path, which)


@each_version
def test_latest_fails_if_newest_checkpoint_has_other_version(run: Path, version: int) -> None:
    add(run, s1=1.5, s2=1.25)
    plant(run, 3, version)
    with pytest.raises(VersionError, match="step-00000003: "):
        runs.load_model(run, "latest")
    assert runs.load_model(run, "2").step == 2


@each_version
def test_latest_ignores_older_checkpoints_of_other_version(
    run: Path, version: int, recwarn: pytest.WarningsRecorder
) -> None:
    plant(run, 1, version)
    add(run, s2=1.25)
    assert runs.load_model(run, "latest").step == 2
    assert not recwarn.list


@each_version
@pytest.mark.parametrize("number", [1, 9])
def test_best_skips_other_version_with_warning(run: Path, version: int, number: int) -> None:
    plant(run, number, version)
    add(run, s2=1.5, s3=1.25, s4=1.75)
    with pytest.warns(CharlmWarning, match=rf"step-0000000{number}: .*format {version}.* step-00000003 ") as caught:
        assert runs.load_model(run, "best").step == 3
    assert len(caught) == 1


@each_version
def test_pruning_ignores_other_version(run: Path, version: int) -> None:
    planted = [plant(run, number, version) for number in (1, 3, 9)]
    before = [snapshot(folder) for folder in planted]
    add(run, s2=1.25, s4=1.75, s5=1.5, s6=2.0)
    runs.prune_checkpoints(run, keep=1)
    assert steps(run) == [9, 6, 5, 3, 2, 1]
    assert [snapshot(folder) for folder in planted] == before


@each_version
def test_saving_over_other_version_is_rejected(run: Path, version: int) -> None:
    before = snapshot(plant(run, 5, version))
    with pytest.raises(VersionError, match="step-00000005: "):
        runs.save_checkpoint(run, make(5, 1.0), keep=0)
    assert snapshot(step(run, 5)) == before


@each_version
def test_rollback_over_other_version_is_rejected_before_removal(run: Path, version: int) -> None:
    add(run, s10=1.5, s20=1.25, s40=1.0)
    damage(step(run, 20))
    plant(run, 30, version)
    (run / "metrics.jsonl").write_text('{"step": 10}\n{"step": 40}\n')
    before = snapshot(run)
    with pytest.raises(VersionError, match="step-00000030: "):
        runs.truncate_after(run, 10)
    assert snapshot(run) == before


@each_version
def test_rollback_keeps_earlier_checkpoints_of_other_version(run: Path, version: int) -> None:
    before = snapshot(plant(run, 5, version))
    add(run, s10=1.5, s20=1.25)
    runs.truncate_after(run, 10)
    assert steps(run) == [10, 5]
    assert snapshot(step(run, 5)) == before


# Overwriting


def test_folder_with_version_1_settings_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG_TOML_1)
    assert runs.is_run(tmp_path)


@pytest.mark.parametrize("changes", [{"weight_dropout": 0.5}, {"dropout": {"embedding": 0.1}, "cells": ["lstm"]}])
def test_folder_with_newer_settings_is_a_run(run: Path, changes: dict[str, object]) -> None:
    import tomli_w

    (run / "config.toml").write_text(tomli_w.dumps({**config.read_toml(run / "config.toml"), **changes}))
    assert runs.is_run(run)


def test_folder_with_few_matching_keys_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('device = "cuda"\nseed = 1\nlearning_rate = 0.1\nbatch_size = 8\n')
    assert not runs.is_run(tmp_path)


@each_version
def test_folder_with_checkpoint_of_other_version_is_a_run(tmp_path: Path, version: int) -> None:
    plant(tmp_path, 12, version)
    assert runs.is_run(tmp_path)


@each_version
def test_remove_run_removes_checkpoints_of_every_version(run: Path, version: int) -> None:
    add(run, s1=1.0)
    plant(run, 12, version)
    runs.remove_run(run)
    assert list(run.iterdir()) == []


def test_remove_run_of_version_1_leaves_nothing(tmp_path: Path) -> None:
    runs.remove_run(run_of_version_1(tmp_path / "old"))
    assert list((tmp_path / "old").iterdir()) == []


# Training


@pytest.mark.parametrize("resume", ["{run}", "auto", "{run}/step-00000012"])
def test_version_1_run_is_not_resumed_or_changed(tmp_path: Path, poem_file: Path, resume: str) -> None:
    old = run_of_version_1(tmp_path / "old")
    before = snapshot(old)
    with pytest.raises(VersionError, match="step-00000012: "):
        plan_training(
            TrainingRequest(
                [str(poem_file)], [SettingsSource("test", SETTINGS)], out=old, resume=resume.format(run=old)
            )
        )
    assert snapshot(old) == before


def test_version_1_run_is_replaced_only_with_overwrite(tmp_path: Path, poem_file: Path) -> None:
    old = run_of_version_1(tmp_path / "old")
    before = snapshot(old)
    layers = [SettingsSource("test", {**SETTINGS, "max_steps": 1})]
    with pytest.raises(UsageError, match="--overwrite"):
        plan_training(TrainingRequest([str(poem_file)], layers, out=old))
    assert snapshot(old) == before
    plan_training(TrainingRequest([str(poem_file)], layers, out=old, overwrite=True)).train(quiet=True)
    assert steps(old) == [1]
    assert runs.load_model(old).step == 1


@each_version
def test_resume_keeps_later_checkpoints_of_other_version(make_trainer: Make, version: int) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.train()
    plant(trainer.run, 9, version)
    before = snapshot(trainer.run)
    for resume in (trainer.run, step(trainer.run, 4)):
        with pytest.raises(VersionError, match="step-00000009: "):
            plan_training(TrainingRequest([], [SettingsSource("test", {"max_steps": 8})], resume=str(resume)))
        assert snapshot(trainer.run) == before


@each_version
def test_resume_keeps_earlier_checkpoints_of_other_version(make_trainer: Make, version: int) -> None:
    trainer = make_trainer(max_steps=4)
    trainer.train()
    before = snapshot(plant(trainer.run, 2, version))
    with pytest.warns(CharlmWarning, match="step-00000002: "):  # the final evaluation is that of the best
        make_trainer(resume=trainer.run, max_steps=8).train()
    assert snapshot(step(trainer.run, 2)) == before
    assert runs.list_checkpoints(trainer.run)[0] == step(trainer.run, 8)


def test_divergence_keeps_checkpoints_of_other_version(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=20)
    infinite_loss(trainer, set(range(5, 21)), times=6)
    write_version_3(step(trainer.run, 30))
    before = snapshot(step(trainer.run, 30))
    with pytest.raises(VersionError, match="step-00000030: "):
        trainer.train()
    assert snapshot(step(trainer.run, 30)) == before


# The command line


@pytest.mark.parametrize("command", ["sample", "eval", "score", "info"])
@each_version
def test_commands_exit_3_with_hint(cli: Cli, tmp_path: Path, version: int, command: str) -> None:
    plant(tmp_path / "old", 12, version)
    result = cli(command, "old")
    assert result.code == 3
    assert result.out == ""
    message, hint = result.err.strip().splitlines()
    assert f"format {version}" in message
    assert hint
    assert not re.search(r"pip|upgrade", result.err)


def test_version_1_run_without_checkpoints_restarts_with_auto(tmp_path: Path, poem_file: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.toml").write_text(CONFIG_TOML_1)
    (old / "corpus.json").write_text(json.dumps(CORPUS_1))
    plan_training(
        TrainingRequest(
            [str(poem_file)], [SettingsSource("test", {**SETTINGS, "max_steps": 1})], out=old, resume="auto"
        )
    ).train(quiet=True)
    assert runs.load_model(old).step == 1


def test_version_1_run_without_checkpoints_names_unknown_settings(tmp_path: Path, poem_file: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.toml").write_text(CONFIG_TOML_1.replace("keep = 2", "once_called_so = 2"))
    (old / "corpus.json").write_text(json.dumps(CORPUS_1))
    with pytest.raises(CheckpointError, match=r"corpus\.json: .*built_in"):
        plan_training(TrainingRequest([], [], resume=str(old)))
    with pytest.raises(UsageError, match=r"config\.toml: once_called_so"):
        plan_training(TrainingRequest([str(poem_file)], [], resume=str(old)))
