"""The ablation: which runs there are, that none is repeated, and what its report makes of the lines."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from charlm.config import SETTINGS_ADDED_LATER, TrainSettings
from tests.conftest import ROOT

MUON = {"optimizer": "muon", "muon_learning_rate": 0.01}
STEPS, MINUTES = {"max_steps": 5}, {"max_minutes": 2.0}


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation  # type: ignore[import-not-found]

    module: ModuleType = ablation
    return module


@pytest.fixture
def report(ablation: ModuleType) -> ModuleType:
    pytest.importorskip("matplotlib")
    import ablation_report  # type: ignore[import-not-found]

    module: ModuleType = ablation_report
    return module


def old_settings(**changes: Any) -> dict[str, Any]:
    return {**TrainSettings().model_dump(), **SETTINGS_ADDED_LATER, **changes}


def test_old_default_is_that_of_0_1_0_on_any_text(ablation: ModuleType, poem_file: Path) -> None:
    settings = ablation.read_settings(ablation.OLD, poem_file)
    assert {name: settings[name] for name in SETTINGS_ADDED_LATER} == SETTINGS_ADDED_LATER
    assert (settings["hidden_size"], settings["dropout"], settings["learning_rate"]) == (384, 0.2, 0.004)
    assert (settings["validation_fraction"], settings["test_fraction"]) == (0.05, 0.05)


def test_each_method_is_added_alone_and_removed_alone(ablation: ModuleType) -> None:
    old, new = old_settings(), old_settings(**MUON, average_decay=0.99, hidden_size=99)
    experiments = list(ablation.make_experiments(old, new))
    changes = [
        (e.base, e.change, e.method, {name: value for name, value in e.settings.items() if value != old[name]})
        for e in experiments
    ]
    added = [(method, ablation.METHODS[method]) for method in ablation.METHODS]
    of_new = {"Muon": MUON, "averaged weights": {"average_decay": 0.99}}
    expected_added = [("old", "added", method, of_new.get(method, values)) for method, values in added]
    assert changes[: len(added) + 1] == [
        ("old", "", "", {}),
        *((*start, {n: v for n, v in values.items() if v != old[n]}) for *start, values in expected_added),
    ]
    assert changes[len(added) + 1 :] == [
        ("new", "", "", {**MUON, "average_decay": 0.99, "hidden_size": 99}),
        ("new", "removed", "Muon", {"average_decay": 0.99, "hidden_size": 99}),
        ("new", "removed", "averaged weights", {**MUON, "hidden_size": 99}),
    ]


def test_methods_are_settings_that_the_old_default_does_not_have(ablation: ModuleType) -> None:
    for method, values in ablation.METHODS.items():
        TrainSettings(**values)
        assert values.keys() <= SETTINGS_ADDED_LATER.keys() | {"schedule"}, method
        assert any(value != old_settings()[name] for name, value in values.items()), method


def test_finished_runs_are_not_repeated(
    ablation: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poem_file: Path
) -> None:
    trained: list[TrainSettings] = []

    def train(text: Path, settings: TrainSettings) -> dict[str, Any]:
        trained.append(settings)
        if len(trained) == 5:
            raise KeyboardInterrupt
        return {"nats_per_character": 1.0}

    monkeypatch.setattr(ablation, "train", train)
    results = tmp_path / "results" / "ablation.jsonl"
    experiments = list(ablation.make_experiments(old_settings(), old_settings(**MUON)))
    count = 2 * 2 * len(experiments)
    given = (poem_file, experiments, [STEPS, MINUTES], 2, results)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_missing(*given)
    lines = ablation.read_lines(results)
    assert len(lines) == 4
    # Settings that charlm got later, or no longer has, do not make it another run
    for line in lines:
        del line["settings"]["reset_probability"]
        line["settings"]["zoneout"] = 0.0
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ablation.run_missing(*given)
    assert len(trained) == count + 1
    ablation.run_missing(*given)
    assert len(trained) == count + 1
    lines = ablation.read_lines(results)
    assert len(lines) == count
    assert {line["seed"] for line in lines} == {line["settings"]["seed"] for line in lines} == {1, 2}
    limits = {(line["settings"]["max_steps"], line["settings"]["max_minutes"]) for line in lines}
    assert limits == {(5, 0.0), (0, 2.0)}


def test_a_run_is_trained_and_described(ablation: ModuleType, poem_file: Path) -> None:
    small = {"hidden_size": 8, "embedding_size": 4, "batch_size": 4, "sequence_length": 16, "threads": 1}
    settings = TrainSettings(**small, **ablation.FIXED, max_steps=20, log_every=5, evaluate_every=10)
    line = json.loads(json.dumps(ablation.train(poem_file, settings)))
    assert line["steps"] == 20
    assert 0 < line["nats_per_character"] < 10
    assert line["environment"]["processor"]
    assert [step for step, _, _ in line["curve"]] == [10, 20]
    (_, first, _), (_, last, _) = line["curve"]
    assert 0 < first < last <= line["training_seconds"] < line["wall_seconds"]


def line_of(base: str, change: str, method: str, seed: int, nats: float, seconds: float = 5.0) -> dict[str, Any]:
    line = {"base": base, "change": change, "method": method, "seed": seed, "nats_per_character": nats}
    return {**line, "budget": STEPS, "training_seconds": seconds, "steps": 5, "commit": "abc1234"}


LINES = [
    *(line_of("old", "", "", seed, 1.5 + seed / 100) for seed in (1, 2, 3)),
    *(line_of("old", "added", "Muon", seed, 1.4 + seed / 50, seconds=6.0) for seed in (1, 2, 3)),
    line_of("old", "added", "zoneout", 1, 1.52),
    line_of("new", "", "", 1, 1.3),
    line_of("new", "removed", "Muon", 1, 1.35),
]


def test_table_has_medians_and_ranges(report: ModuleType) -> None:
    head, _, muon, zoneout = report.table(LINES, [STEPS]).splitlines()
    assert "added to old, 5 steps" in head
    assert "removed from new, 5 steps" in head
    assert muon == "| Muon | +0.0800 (+0.0700 to +0.0900) | +0.0500 | 1.20 × | abc1234 |"
    assert zoneout == "| zoneout | -0.0100 | – | 1.00 × | abc1234 |"


def test_table_has_a_column_for_each_budget(report: ModuleType) -> None:
    head, _, *rows = report.table(LINES, [STEPS, MINUTES]).splitlines()
    assert head.count("2 minutes") == 2
    assert all(row.count("|") == head.count("|") for row in rows)


def test_picture_is_the_same_for_the_same_lines(report: ModuleType) -> None:
    picture = report.draw(LINES, [STEPS, MINUTES])
    assert b"<svg" in picture
    assert report.draw(LINES, [STEPS, MINUTES]) == picture
    assert report.draw(LINES[:-1], [STEPS]) != picture
