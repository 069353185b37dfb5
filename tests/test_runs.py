import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm import config, files, runs
from charlm.checkpoint import loading, writing
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import SettingsSource, TrainSettings
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CharlmWarning, CheckpointError, UsageError
from charlm.model.language_model import CharacterModel
from charlm.progress import TrainingProgress
from charlm.records import to_json
from charlm.run_corpus import CorpusFile
from charlm.summary import summarize
from tests.conftest import corpus_file, corpus_record

SETTINGS = TrainSettings(hidden_size=4, embedding_size=4, num_layers=1)
CORPUS = corpus_file("été")


def make(step: int, loss: float | None = None) -> Checkpoint:
    vocabulary = Vocabulary.from_text("ab\0é")
    model = SavedModel(
        step=step,
        settings=SETTINGS,
        vocabulary=vocabulary,
        weights=dict(CharacterModel(len(vocabulary), SETTINGS).state_dict()),
        metrics={} if loss is None else {"loss_validation": loss},
        progress=TrainingProgress(steps=step, training_seconds=step / 4),
        corpus=corpus_record("été"),
        environment=describe_environment(torch.device("cpu"), "fp32"),
    )
    return Checkpoint(model, {})


def step(run: Path, number: int) -> Path:
    return run / f"step-{number:08d}"


def add(run: Path, **losses: float | None) -> None:
    """Checkpoints, unpruned: ``add(run, s3=1.5)`` is step 3 with that validation loss."""
    for name, loss in losses.items():
        writing.write_checkpoint(step(run, int(name[1:])), make(int(name[1:]), loss))


def steps(run: Path) -> list[int]:
    return [int(folder.name[5:]) for folder in runs.list_checkpoints(run)]


def damage(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "play"
    runs.create_run(folder, SETTINGS, CORPUS)
    return folder


# The folder


def test_create_run_writes_settings_and_corpus(run: Path) -> None:
    assert config.resolve(TrainSettings, [SettingsSource("", config.read_toml(run / "config.toml"))]) == SETTINGS
    assert json.loads((run / "corpus.json").read_bytes()) == CORPUS.model_dump()
    assert CorpusFile.read(run) == CORPUS
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "corpus.json"]


def test_create_run_removes_stale_temporaries(run: Path) -> None:
    (run / f".step-00000001{files.TEMPORARY_INFIX}0badcafe").mkdir()
    runs.create_run(run, SETTINGS, CORPUS)
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "corpus.json"]


@pytest.mark.parametrize("path", [*CORPUS.model_dump(), "split.train", "split.test", "files.0.path", "files.0.sha256"])
def test_corpus_record_without_field_is_rejected(run: Path, path: str) -> None:
    record = CORPUS.model_dump()
    *parents, name = path.split(".")
    part: Any = record
    for parent in parents:
        part = part[int(parent) if parent.isdigit() else parent]
    del part[name]
    (run / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=f"{re.escape(str(run / 'corpus.json'))}: .*{path}") as raised:
        CorpusFile.read(run)
    assert raised.value.hint


@pytest.mark.parametrize("data", [None, b"", b"[]", b"\xff", b"{"], ids=repr)
def test_unreadable_corpus_record_is_rejected(run: Path, data: bytes | None) -> None:
    (run / "corpus.json").unlink()
    if data is not None:
        (run / "corpus.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"corpus\.json") as raised:
        CorpusFile.read(run)
    assert raised.value.hint


def test_checkpoint_folder_is_named_after_step(run: Path) -> None:
    assert runs.save_checkpoint(run, make(1000), keep=0) == run / "step-00001000"
    assert loading.load_checkpoint(run / "step-00001000").model.step == 1000


def test_damaged_checkpoint_is_replaced_on_save(run: Path) -> None:
    for loss in (2.0, 1.0):
        runs.save_checkpoint(run, make(5, loss), keep=0)
    damage(step(run, 5))
    runs.save_checkpoint(run, make(5, 3.0), keep=0)
    assert loading.load_checkpoint(step(run, 5)).model.metrics == {"loss_validation": 3.0}


def test_checkpoints_are_sorted_by_step_latest_first(run: Path) -> None:
    add(run, s9=None, s10=None, s99999999=None, s100000000=None)
    for name in ("step-5", "step-0000000x", "step-00000007.damaged", "samples"):
        (run / name).mkdir()
    (run / "step-00000008").touch()
    assert steps(run) == [100_000_000, 99_999_999, 10, 9]


def test_runs_and_checkpoints_are_distinguished(run: Path, tmp_path: Path) -> None:
    add(run, s1=None)
    assert runs.is_run(run)
    assert not runs.is_checkpoint(run)
    assert runs.is_checkpoint(step(run, 1))
    assert not runs.is_run(step(run, 1))
    assert not runs.is_run(tmp_path)
    assert not runs.is_checkpoint(tmp_path)
    renamed = step(run, 1).rename(tmp_path / "favorite")
    assert runs.is_checkpoint(renamed)


# Which one is read


def test_best_is_lowest_validation_loss_and_latest_is_last(run: Path) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.75, s4=None)
    assert runs.load_model(run).step == 2
    assert runs.load_model(run, "best").step == 2
    assert runs.load_model(run, "latest").step == 4


@pytest.mark.parametrize("which", ["3", "03", "00000003"])
def test_step_is_selected_by_number(run: Path, which: str) -> None:
    add(run, s1=1.5, s3=1.75, s30=1.25)
    assert runs.load_model(run, which).step == 3


def test_checkpoint_path_can_be_anywhere(run: Path, tmp_path: Path) -> None:
    add(run, s1=1.5, s2=1.25)
    assert runs.load_model(step(run, 1)).step == 1
    assert runs.load_model(step(run, 1).rename(tmp_path / "favorite")).step == 1


def test_best_prefers_older_checkpoint_on_tie(run: Path) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.25)
    assert runs.load_model(run).step == 2


def test_best_without_evaluation_is_latest(run: Path) -> None:
    add(run, s1=None, s2=None)
    assert runs.load_model(run, "best").step == 2


def test_nan_loss_is_never_best(run: Path) -> None:
    add(run, s1=1.5, s2=float("nan"), s3=1.25, s4=float("nan"))
    assert runs.load_model(run, "best").step == 3
    runs.prune_checkpoints(run, keep=0)
    assert steps(run) == [4, 3]


def test_damaged_latest_checkpoint_is_skipped_with_warning(run: Path) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.75)
    damage(step(run, 3))
    with pytest.warns(CharlmWarning, match=r"step-00000003: .*model\.safetensors.* step-00000002 ") as caught:
        assert runs.load_model(run, "latest").step == 2
    assert len(caught) == 1


def test_damaged_best_checkpoint_falls_back_with_warning(run: Path) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.75)
    damage(step(run, 2))
    with pytest.warns(CharlmWarning, match="step-00000002: "):
        assert runs.load_model(run, "best").step == 1


def test_damaged_unrequested_checkpoint_is_ignored(run: Path) -> None:
    add(run, s1=1.5, s2=1.25, s3=1.75)
    damage(step(run, 1))
    with warnings.catch_warnings(action="error"):
        assert runs.load_model(run, "best").step == 2
        assert runs.load_model(run, "latest").step == 3


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"metrics": []}', b'{"metrics": {"loss_validation": "low"}}'])
def test_damaged_config_is_skipped_with_warning(run: Path, data: bytes) -> None:
    add(run, s1=1.5, s2=1.25)
    (step(run, 2) / "config.json").write_bytes(data)
    assert runs.load_model(run, "best").step == 1
    with pytest.warns(CharlmWarning):
        assert runs.load_model(run, "latest").step == 1


def test_damaged_requested_step_is_an_error(run: Path) -> None:
    add(run, s1=1.5, s2=1.25)
    damage(step(run, 2))
    for path, which in ((run, "2"), (step(run, 2), "best")):
        with pytest.raises(CheckpointError, match="step-00000002"):
            runs.load_model(path, which)


def test_all_damaged_error_names_requested_checkpoint(run: Path) -> None:
    add(run, s1=1.5, s2=1.25)
    damage(step(run, 1))
    damage(step(run, 2))
    with pytest.raises(CheckpointError, match="step-00000002"):
        runs.load_model(run, "latest")


def test_empty_run_and_foreign_folder_are_errors(run: Path, tmp_path: Path) -> None:
    for folder in (run, tmp_path):
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(folder))}: ") as raised:
            runs.load_model(folder)
        assert raised.value.exit_code == 3


def test_missing_path_is_a_usage_error(run: Path, tmp_path: Path) -> None:
    add(run, s1=1.5, s20=1.25)
    with pytest.raises(UsageError, match="no such run"):
        runs.load_model(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"step 2\b") as raised:
        runs.load_model(run, "2")
    assert "1, 20" in raised.value.hint


@pytest.mark.parametrize("which", ["", "bset", "-1", "1.5", "²", "٣"])
def test_invalid_checkpoint_choice_is_rejected(run: Path, which: str) -> None:
    add(run, s3=None)
    with pytest.raises(UsageError, match=r"best, latest or a step"):
        runs.load_model(run, which)


@pytest.mark.parametrize("which", ["best", "latest"])
def test_read_retries_when_checkpoint_is_pruned(run: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run, s1=1.5)
    load_model = loading.load_model

    def overtaken(folder: Path, data: bool = True) -> SavedModel:
        if folder == step(run, 1) and folder.exists():
            runs.save_checkpoint(run, make(2, 1.25), keep=0)
        return load_model(folder, data)

    monkeypatch.setattr(loading, "load_model", overtaken)
    assert runs.load_model(run, which).step == 2


# What is kept


@given(
    losses=st.lists(st.none() | st.floats(0, 9), min_size=1, max_size=7),
    keep=st.integers(0, 4),
)
def test_prune_keeps_best_latest_and_extra_checkpoints(
    tmp_path_factory: pytest.TempPathFactory, losses: list[float | None], keep: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    for number, loss in enumerate(losses):
        step(run, number).mkdir()
        metrics = {} if loss is None else {"loss_validation": loss}
        (step(run, number) / "config.json").write_text(json.dumps({"metrics": metrics}))
    runs.prune_checkpoints(run, keep)
    known = [(loss, number) for number, loss in enumerate(losses) if loss is not None]
    meant = {len(losses) - 1, *(number for _, number in sorted(known)[:1])}
    others = [number for number in reversed(range(len(losses))) if number not in meant]
    assert set(steps(run)) == meant | set(others[:keep])


def test_save_checkpoint_prunes(run: Path) -> None:
    for number, loss in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        runs.save_checkpoint(run, make(number, loss), keep=1)
    assert steps(run) == [4, 3, 0]
    assert {path.name for path in run.iterdir()} == {
        "config.toml",
        "corpus.json",
        *(step(run, n).name for n in (4, 3, 0)),
    }


# Overwriting


def test_remove_run_removes_charlm_files(run: Path) -> None:
    add(run, s1=1.5, s2=1.25)
    for name in ("metrics.jsonl", "events.out.tfevents.1.host.2.3", f".config.toml{files.TEMPORARY_INFIX}0badcafe"):
        (run / name).touch()
    step(run, 1).rename(run / "step-00000001.damaged")
    runs.remove_run(run)
    assert list(run.iterdir()) == []


def test_remove_run_keeps_foreign_files(run: Path) -> None:
    add(run, s1=1.5)
    mine = {"notes.txt", "config.toml.bak", "step-by-step.md", "metrics.jsonl.txt", "step-00000002", "plots/a.png"}
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    runs.remove_run(run)
    assert {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} == mine


def foreign_folder(folder: Path) -> None:
    (folder / "thesis.tex").touch()


def foreign_config(folder: Path) -> None:
    (folder / "config.toml").write_text('baseURL = "https://example.org/"\n[menu]\nname = "Home"\n')


def foreign_steps(folder: Path) -> None:
    (folder / "step-20240101").mkdir()
    (folder / "step-20240101" / "photo.jpg").touch()


@pytest.mark.parametrize("make_folder", [foreign_folder, foreign_config, foreign_steps])
def test_remove_run_rejects_foreign_folder(tmp_path: Path, make_folder: Callable[[Path], None]) -> None:
    make_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=f"^{re.escape(str(tmp_path))}: "):
        runs.remove_run(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


# Going on


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({"step": number, "loss_train": 1 / (3 + number)}).encode() + b"\n" for number in numbers)


def test_truncate_after_removes_later_metrics_and_checkpoints(run: Path) -> None:
    add(run, s10=1.5, s20=1.25, s30=1.0)
    (run / "metrics.jsonl").write_bytes(lines(5, 10, 15, 20, 25, 30))
    runs.truncate_after(run, 20)
    assert steps(run) == [20, 10]
    assert (run / "metrics.jsonl").read_bytes() == lines(5, 10, 15, 20)


@pytest.mark.parametrize(
    "torn", [b'{"step": 15, "lo', b'{"step": 15', b"{", b"\0\0\0\0", b'{"step": 1\xff\xfe'], ids=repr
)
def test_torn_last_line_is_dropped(run: Path, torn: bytes) -> None:
    (run / "metrics.jsonl").write_bytes(lines(5, 10) + torn)
    runs.truncate_after(run, 20)
    assert (run / "metrics.jsonl").read_bytes() == lines(5, 10)


def test_damaged_later_checkpoints_are_set_aside(run: Path) -> None:
    add(run, s10=1.5, s20=1.25, s30=1.0)
    damage(step(run, 20))
    assert [folder.name for folder in runs.list_later_checkpoints(run, 10)] == ["step-00000030", "step-00000020"]
    runs.truncate_after(run, 10)
    assert steps(run) == [10]
    assert sorted(path.name for path in run.glob("step-*")) == ["step-00000010", "step-00000020.damaged"]


def test_step_can_be_set_aside_repeatedly(run: Path) -> None:
    for _ in range(2):
        add(run, s20=1.25)
        damage(step(run, 20))
        runs.truncate_after(run, 10)
        assert steps(run) == []
        assert (run / "step-00000020.damaged").is_dir()


def test_truncate_after_without_metrics(run: Path) -> None:
    add(run, s10=1.5)
    runs.truncate_after(run, 10)
    assert list(runs.read_json_lines(run / "metrics.jsonl")) == []
    assert steps(run) == [10]


# What is told


def test_summary_is_complete_and_json_serializable(run: Path) -> None:
    add(run, s10=1.5, s20=1.25, s30=1.75)
    (run / "metrics.jsonl").write_bytes(lines(10, 20, 30) + b'{"step": 20, "loss_validation_exact": 1.3}\n{"st')
    summary = to_json(summarize(run))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["run"] == str(run)
    assert summary["step"] == 20
    assert summary["settings"] == SETTINGS.model_dump()
    assert summary["vocabulary"] == ["\0", "a", "b", "é"]
    assert summary["metrics"] == {"loss_validation": 1.25, "loss_train": 1 / 23, "loss_validation_exact": 1.3}
    assert summary["corpus"] == CORPUS.model_dump()
    assert summary["checkpoints"] == [10, 20, 30]
    assert summary["environment"]["torch"] == torch.__version__


def test_summary_counts_every_parameter_once(run: Path) -> None:
    add(run, s10=1.5)
    parameters = summarize(run).parameters
    assert parameters == {"embedding": 5 * 4, "layer 0": 16 * (4 + 4 + 1), "output": 4 * (4 + 1), "total": 184}


def test_summary_contains_training_time(run: Path) -> None:
    add(run, s10=1.5)
    assert summarize(run).training_seconds == 10 / 4


def test_summary_of_checkpoint_describes_its_run(run: Path) -> None:
    add(run, s10=1.5, s20=1.25)
    assert summarize(step(run, 10)) == summarize(run, "10")
    assert summarize(run, "latest").step == 20


def test_checkpoint_can_be_named_relative_to_itself(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run, s10=1.5, s20=1.25)
    monkeypatch.chdir(step(run, 10))
    assert summarize(Path()).step == 10
    assert summarize(Path()).checkpoints == [10, 20]
