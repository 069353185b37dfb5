"""Settings that are auto: their rule, at both ends, and what becomes of them in a run."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from charlm import runs
from charlm.config import SettingsSource, SourceKind, TrainSettings, choose_automatic, find_automatic, resolve
from charlm.config import automatic as rule
from charlm.config.settings import ALLOWS_AUTO
from charlm.errors import UsageError
from charlm.training.plan import TrainingPlan, plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli, cli

__all__ = ["cli"]  # a fixture

ALL_AUTO = dict.fromkeys(rule.AUTOMATIC_SETTINGS, "auto")
SMALL_TABLE = {
    0: rule._Row(hidden_size=6, num_layers=1, dropout=0.25, max_steps=3),
    1_000: rule._Row(hidden_size=8, num_layers=2, dropout=0.5, max_steps=5),
}
SETTINGS = {"embedding_size": 4, "batch_size": 4, "sequence_length": 16, "sample_length": 0, "threads": 1}


@pytest.fixture
def _small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "TABLE", SMALL_TABLE)


def plan(text: Path, out: Path | None, resume: Path | None = None, **changes: Any) -> TrainingPlan:
    values = changes if resume else {**SETTINGS, **changes}
    return plan_training(TrainingRequest([str(text)], [SettingsSource("test", values)], out=out, resume=resume))


def chosen(settings: TrainSettings) -> dict[str, Any]:
    return settings.model_dump(include=set(rule.AUTOMATIC_SETTINGS))


def test_rule_at_both_ends_and_at_each_step() -> None:
    starts = list(rule.TABLE)
    assert starts == sorted(starts)
    rows = [vars(row) for row in rule.TABLE.values()]
    assert choose_automatic(0) == choose_automatic(1) == rows[0]
    assert choose_automatic(10**12) == rows[-1]
    for start, before, row in zip(starts[1:], rows, rows[1:], strict=False):
        assert choose_automatic(start - 1) == before
        assert choose_automatic(start) == row


@pytest.mark.parametrize("characters", rule.TABLE)
def test_every_row_has_valid_settings(characters: int) -> None:
    settings = resolve(TrainSettings, [SettingsSource("test", ALL_AUTO)], choose_automatic(characters))
    assert chosen(settings) == vars(rule.TABLE[characters])


def test_settings_that_may_be_auto_are_those_of_the_rule() -> None:
    marked = {name for name, field in TrainSettings.model_fields.items() if field.json_schema_extra == ALLOWS_AUTO}
    assert marked == set(rule.AUTOMATIC_SETTINGS)


@pytest.mark.parametrize("name", rule.AUTOMATIC_SETTINGS)
def test_other_words_are_rejected(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}: must be .* or 'auto' \(got 'some'\)"):
        resolve(TrainSettings, [SettingsSource("test", {name: "some"})], choose_automatic(1))


def test_auto_is_rejected_where_there_is_no_text_and_for_other_settings() -> None:
    for name in ("hidden_size", "batch_size"):
        with pytest.raises(UsageError, match=name):
            resolve(TrainSettings, [SettingsSource("test", {name: "auto"})])


def test_later_sources_override_auto_and_are_overridden_by_it() -> None:
    auto, number = SettingsSource("a", {"hidden_size": "auto"}), SettingsSource("b", {"hidden_size": 7})
    assert find_automatic([auto, number]) == []
    assert resolve(TrainSettings, [auto, number], choose_automatic(1)).hidden_size == 7
    assert find_automatic([number, auto]) == ["hidden_size"]
    assert resolve(TrainSettings, [number, auto], choose_automatic(1)).hidden_size == rule.TABLE[0].hidden_size


def test_another_limit_discards_automatic_steps() -> None:
    preset = SettingsSource("preset", {"max_steps": "auto"})
    minutes = SettingsSource.command_line({"max_minutes": 2.0})
    settings = resolve(TrainSettings, [preset, minutes], choose_automatic(1))
    assert (settings.max_steps, settings.max_minutes) == (0, 2.0)
    settings = resolve(TrainSettings, [minutes, preset], choose_automatic(1))
    assert (settings.max_steps, settings.max_minutes) == (rule.TABLE[0].max_steps, 0.0)


@pytest.mark.usefixtures("_small_table")
@pytest.mark.parametrize(("characters", "row"), [(1_000, 0), (1_120, 1_000)])  # 900 and 1,008 for training
def test_run_is_trained_with_the_numbers_for_its_text(
    tmp_path: Path, poem: str, characters: int, row: int, cli: Cli
) -> None:
    text, run = tmp_path / "poem.txt", tmp_path / "run"
    text.write_text(poem[:characters], encoding="utf-8")
    ready = plan(text, run, **ALL_AUTO)
    expected = vars(SMALL_TABLE[row])
    (line,) = [line for line in ready.startup_messages() if line.startswith("Chosen for")]
    assert all(f"{name} {value}" in line for name, value in expected.items())
    assert f"{len(ready.corpus.split.train):,} characters" in line
    ready.train(quiet=True)
    written = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert {name: written[name] for name in expected} == expected
    saved = runs.load_model(run, "latest")
    assert chosen(saved.settings) == expected
    assert saved.step == expected["max_steps"]


@pytest.mark.usefixtures("_small_table")
def test_numbers_are_fixed_on_a_resume(tmp_path: Path, poem_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    plan(poem_file, run, **ALL_AUTO).train(quiet=True)
    other = rule._Row(hidden_size=9, num_layers=3, dropout=0.75, max_steps=9)
    monkeypatch.setattr(rule, "TABLE", {0: other})
    for changes in ({}, ALL_AUTO):
        resumed = plan(poem_file, None, run, **changes)
        assert chosen(resumed.settings) == vars(SMALL_TABLE[1_000])
        assert not [line for line in resumed.startup_messages() if line.startswith("Chosen for")]
    with pytest.raises(UsageError, match="hidden_size"):
        plan(poem_file, None, run, hidden_size=9)


@pytest.mark.usefixtures("_small_table")
def test_run_limited_in_minutes_may_continue_to_automatic_steps(tmp_path: Path, poem_file: Path) -> None:
    run = tmp_path / "run"
    plan(poem_file, run, hidden_size=6, max_minutes=1e-6).train(quiet=True)
    resumed = plan(poem_file, None, run, max_steps="auto")
    assert (resumed.settings.max_steps, resumed.settings.max_minutes) == (SMALL_TABLE[1_000].max_steps, 0.0)


@pytest.mark.usefixtures("_small_table")
def test_finetuning_keeps_the_architecture(tmp_path: Path, poem_file: Path) -> None:
    plan(poem_file, tmp_path / "first", hidden_size=10, num_layers=1, max_steps=1).train(quiet=True)
    preset = SettingsSource("preset.toml", ALL_AUTO, SourceKind.FILE)
    explicit = SettingsSource.command_line({**SETTINGS, "init_from": str(tmp_path / "first"), "hidden_size": "auto"})
    ready = plan_training(TrainingRequest([str(poem_file)], [preset, explicit], out=tmp_path / "second"))
    row = SMALL_TABLE[1_000]
    assert chosen(ready.settings) == {**vars(row), "hidden_size": 10, "num_layers": 1}
    assert ready.chosen == {"dropout": row.dropout, "max_steps": row.max_steps}


def test_command_line_accepts_auto_and_nothing_else(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    run = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    options += ["--out", str(run), "--max-steps", "1", "--hidden-size", "auto", "--dropout=auto"]
    result = cli("train", poem_file, *options)
    assert result.code == 0
    assert f"hidden_size {rule.TABLE[0].hidden_size}, dropout {rule.TABLE[0].dropout}." in result.err
    for name in rule.AUTOMATIC_SETTINGS:
        result = cli("train", poem_file, f"--{name.replace('_', '-')}", "much")
        assert result.code == 2
        assert "'auto'" in result.err
