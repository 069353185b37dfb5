"""The text of a run is found again, by its names or in the cache, and is the same to the last byte or refused."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from charlm.config import TrainSettings
from charlm.corpus import loading
from charlm.corpus.loading import Corpus
from charlm.errors import UsageError
from charlm.run_corpus import CorpusFile, RunCorpus

SETTINGS = TrainSettings(sequence_length=16)
RUN = Path("run")


def reload(corpus: Corpus, *given: Path | str, cache: Path | None = None, run: Path = RUN) -> Corpus:
    """Its corpus, found again by a run that is at ``run`` now and was at ``RUN``."""
    recorded = RunCorpus(run, corpus.to_record(), CorpusFile.describe(corpus, RUN), "Do this.", "Do this.")
    return recorded.load([str(name) for name in given], SETTINGS, corpus.vocabulary, cache)


@pytest.fixture
def corpus(poem_file: Path) -> Corpus:
    return loading.load_corpus([str(poem_file)], SETTINGS, 16)


def test_run_corpus_is_found_with_same_splits(corpus: Corpus) -> None:
    found = reload(corpus)
    assert found.to_record() == corpus.to_record()
    assert found.text[:].tolist() == corpus.text[:].tolist()


def test_renamed_text_can_be_passed(corpus: Corpus, poem_file: Path) -> None:
    moved = poem_file.rename(poem_file.with_name("moved.txt"))
    found = reload(corpus, moved)
    assert found.names == [str(moved)]
    assert found.text[:].tolist() == corpus.text[:].tolist()


def test_missing_text_is_loaded_from_cache(corpus: Corpus, poem_file: Path, tmp_path: Path) -> None:
    poem_file.unlink()
    found = reload(corpus)
    assert found.names == corpus.names
    assert found.text[:].tolist() == corpus.text[:].tolist()
    with pytest.raises(UsageError, match=r"^run: .*poem\.txt") as caught:
        reload(corpus, cache=tmp_path / "another")
    assert caught.value.hint == "Do this."


def test_different_text_is_rejected(corpus: Corpus, poem_file: Path) -> None:
    poem_file.write_bytes(poem_file.read_bytes().replace(b"9", b"8"))
    for given in ((), (poem_file,)):
        with pytest.raises(UsageError, match=r"^run: .*poem\.txt") as caught:
            reload(corpus, *given)
        assert caught.value.hint == "Do this."


def test_built_in_corpus_is_found() -> None:
    built_in = loading.load_corpus([], SETTINGS, 16)
    assert reload(built_in).name == reload(built_in, "python").name == "python"
    assert reload(built_in).names == []


def test_built_in_corpus_of_other_python_is_loaded_from_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(version: int) -> None:
        folder = tmp_path / f"python3.{version}"
        folder.mkdir()
        (folder / "this.py").write_text(f"version = {version}\n" * 50)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))

    install(11)
    built_in = loading.load_corpus([], SETTINGS, 16)
    shutil.rmtree(tmp_path / "python3.11")
    install(12)
    for given in ((), ("python",)):
        found = reload(built_in, *given)
        assert found.to_record() == built_in.to_record()
        assert found.text[:].tolist() == built_in.text[:].tolist()
    with pytest.raises(UsageError, match="Python"):
        reload(built_in, cache=tmp_path / "empty")


def test_built_in_corpus_of_installed_python_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "this.py").write_text("version = 10\n" * 50)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    built_in = loading.load_corpus([], SETTINGS, 16)
    monkeypatch.undo()
    assert reload(built_in, cache=tmp_path / "empty").to_record() == built_in.to_record()


def test_text_moved_with_run_is_found(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "poem.txt").write_text(poem)
    monkeypatch.chdir(tmp_path / "here")
    corpus = loading.load_corpus(["poem.txt"], SETTINGS, 16)
    recorded = CorpusFile.describe(corpus, Path("checkpoints/poem"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = RunCorpus(Path("there/checkpoints/poem"), corpus.to_record(), recorded, "", "")
    assert moved.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty").to_record() == corpus.to_record()


def test_moved_run_finds_text_at_old_path(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("poem.txt").write_text(poem)
    corpus = loading.load_corpus(["poem.txt"], SETTINGS, 16)
    recorded = CorpusFile.describe(corpus, Path("checkpoints/poem"))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir("away")
    for other in (poem.replace("9", "8"), "of another size"):  # at the place that is first looked at
        Path("poem.txt").write_text(other)
        moved = RunCorpus(tmp_path / "away" / "a" / "b", corpus.to_record(), recorded, "", "")
        assert moved.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty").to_record() == corpus.to_record()


def test_run_without_corpus_json_uses_cache(corpus: Corpus, tmp_path: Path) -> None:
    alone = RunCorpus(RUN, corpus.to_record(), None, "Do this.", "")
    assert alone.load([], SETTINGS, corpus.vocabulary).to_record() == corpus.to_record()
    with pytest.raises(UsageError, match=r"poem.*corpus\.json") as caught:
        alone.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty")
    assert caught.value.hint == "Do this."
