"""A corpus of very many files: their list is kept once a run, and what could not be read again is not written."""

from pathlib import Path

import pytest

from charlm import run_corpus, runs
from charlm.checkpoint import writing
from charlm.config import SettingsSource
from charlm.errors import TextError
from charlm.run_corpus import CorpusFile
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.training.conftest import SETTINGS


def train(folder: Path, count: int, run: Path, **settings: object) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.txt").write_text(f"file {number:06} of a corpus\n")
    asked = {
        **SETTINGS,
        "max_steps": 2,
        "save_every_minutes": 1e-9,
        "sample_length": 0,
        "document_per_file": True,
        **settings,
    }
    plan_training(TrainingRequest([str(folder)], [SettingsSource("test", asked)], out=run)).train(quiet=True)
    return run


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_checkpoint_size_does_not_depend_on_number_of_files(tmp_path: Path) -> None:
    few = train(tmp_path / "few", 100, tmp_path / "run 1")
    many = train(tmp_path / "many", 1000, tmp_path / "run 2")
    sizes = [size_bytes(runs.list_checkpoints(run)[0]) for run in (few, many)]
    assert abs(sizes[0] - sizes[1]) < 100
    assert len(CorpusFile.read(many).files) == runs.load_model(many).corpus.num_files == 1000


def test_run_with_many_files_resumes(tmp_path: Path) -> None:
    run = train(tmp_path / "texts", 100, tmp_path / "run")
    plan_training(TrainingRequest([], [SettingsSource("test", {"max_steps": 4})], resume=str(run))).train(quiet=True)
    assert runs.load_model(run, "latest").step == 4
    assert len(CorpusFile.read(run).files) == 100


def test_too_long_file_list_is_rejected_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_corpus, "MAX_BYTES", 10_000)
    with pytest.raises(TextError, match="100 files") as raised:
        train(tmp_path / "texts", 100, tmp_path / "run")
    assert "--document-separator" in raised.value.hint
    assert not runs.is_nonempty(tmp_path / "run")


def test_too_long_file_list_does_not_replace_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "few", 40, tmp_path / "run")
    monkeypatch.setattr(run_corpus, "MAX_BYTES", 10_000)
    (tmp_path / "many").mkdir()
    for number in range(100):
        (tmp_path / "many" / f"{number}.txt").write_text("some more text\n")
    with pytest.raises(TextError):
        plan_training(
            TrainingRequest([str(tmp_path / "many")], [SettingsSource("test", SETTINGS)], out=run, overwrite=True)
        ).train(quiet=True)
    assert runs.load_model(run).step == 2


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "manifest.json"])
def test_unreadably_large_json_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = train(tmp_path / "texts", 40, tmp_path / "run")
    saved = runs.load_checkpoint(run)
    monkeypatch.setattr(writing, "MAX_JSON_BYTES", (runs.list_checkpoints(run)[0] / name).stat().st_size - 1)
    with pytest.raises(TextError):
        writing.write_checkpoint(tmp_path / "another", saved)
    assert not (tmp_path / "another").exists()


def test_oversized_config_is_rejected_before_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_JSON_BYTES", 1000)
    with pytest.raises(TextError):
        train(tmp_path / "texts", 40, tmp_path / "run")
    assert not runs.is_nonempty(tmp_path / "run")
