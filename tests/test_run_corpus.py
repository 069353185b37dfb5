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


def again(corpus: Corpus, *given: Path | str, cache: Path | None = None, run: Path = RUN) -> Corpus:
    """Its corpus, found again by a run that is at ``run`` now and was at ``RUN``."""
    recorded = RunCorpus(run, corpus.record(), CorpusFile.describe(corpus, RUN), "Do this.", "Do this.")
    return recorded.load([str(name) for name in given], SETTINGS, corpus.vocabulary, cache)


@pytest.fixture
def corpus(poem_file: Path) -> Corpus:
    return loading.load([str(poem_file)], SETTINGS, 16)


def test_it_is_read_where_it_was_in_parts_as_they_were(corpus: Corpus) -> None:
    found = again(corpus)
    assert found.record() == corpus.record()
    assert found.text[:].tolist() == corpus.text[:].tolist()


def test_it_may_have_another_name_now(corpus: Corpus, poem_file: Path) -> None:
    moved = poem_file.rename(poem_file.with_name("moved.txt"))
    found = again(corpus, moved)
    assert found.names == [str(moved)]
    assert found.text[:].tolist() == corpus.text[:].tolist()


def test_where_it_is_gone_the_cache_has_it(corpus: Corpus, poem_file: Path, tmp_path: Path) -> None:
    poem_file.unlink()
    found = again(corpus)
    assert found.names == corpus.names
    assert found.text[:].tolist() == corpus.text[:].tolist()
    with pytest.raises(UsageError, match=r"^run: .*poem\.txt") as caught:
        again(corpus, cache=tmp_path / "another")
    assert caught.value.hint == "Do this."


def test_another_text_is_refused(corpus: Corpus, poem_file: Path) -> None:
    poem_file.write_bytes(poem_file.read_bytes().replace(b"9", b"8"))
    for given in ((), (poem_file,)):
        with pytest.raises(UsageError, match=r"^run: .*poem\.txt") as caught:
            again(corpus, *given)
        assert caught.value.hint == "Do this."


def test_the_built_in_text_is_found_by_its_name() -> None:
    built_in = loading.load([], SETTINGS, 16)
    assert again(built_in).name == again(built_in, "python").name == "python"
    assert again(built_in).names == []


def test_the_built_in_text_of_another_version_of_python_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(version: int) -> None:
        folder = tmp_path / f"python3.{version}"
        folder.mkdir()
        (folder / "this.py").write_text(f"version = {version}\n" * 50)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))

    install(11)
    built_in = loading.load([], SETTINGS, 16)
    shutil.rmtree(tmp_path / "python3.11")
    install(12)
    for given in ((), ("python",)):
        found = again(built_in, *given)
        assert found.record() == built_in.record()
        assert found.text[:].tolist() == built_in.text[:].tolist()
    with pytest.raises(UsageError, match="Python"):
        again(built_in, cache=tmp_path / "empty")


def test_the_built_in_text_of_a_python_that_is_still_there_is_read_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this.py").write_text("version = 10\n" * 50)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    built_in = loading.load([], SETTINGS, 16)
    monkeypatch.undo()
    assert again(built_in, cache=tmp_path / "empty").record() == built_in.record()


def test_a_run_finds_a_text_that_was_moved_with_it(tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "poem.txt").write_text(poem)
    monkeypatch.chdir(tmp_path / "here")
    corpus = loading.load(["poem.txt"], SETTINGS, 16)
    recorded = CorpusFile.describe(corpus, Path("checkpoints/poem"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = RunCorpus(Path("there/checkpoints/poem"), corpus.record(), recorded, "", "")
    assert moved.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty").record() == corpus.record()


def test_a_run_that_was_moved_alone_finds_its_text_where_it_was(
    tmp_path: Path, poem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("poem.txt").write_text(poem)
    corpus = loading.load(["poem.txt"], SETTINGS, 16)
    recorded = CorpusFile.describe(corpus, Path("checkpoints/poem"))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir("away")
    for other in (poem.replace("9", "8"), "of another size"):  # at the place that is first looked at
        Path("poem.txt").write_text(other)
        moved = RunCorpus(tmp_path / "away" / "a" / "b", corpus.record(), recorded, "", "")
        assert moved.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty").record() == corpus.record()


def test_a_run_without_a_list_of_files_finds_its_text_in_the_cache(corpus: Corpus, tmp_path: Path) -> None:
    alone = RunCorpus(RUN, corpus.record(), None, "Do this.", "")
    assert alone.load([], SETTINGS, corpus.vocabulary).record() == corpus.record()
    with pytest.raises(UsageError, match=r"poem.*corpus\.json") as caught:
        alone.load([], SETTINGS, corpus.vocabulary, tmp_path / "empty")
    assert caught.value.hint == "Do this."
