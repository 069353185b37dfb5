"""The text of a run is found again, by its names or in the cache, and is the same to the last byte or refused."""

from pathlib import Path

import pytest

from charlm.config import TrainSettings
from charlm.corpus import loading, recorded
from charlm.corpus.loading import Corpus
from charlm.errors import UsageError

SETTINGS = TrainSettings(sequence_length=16)
RUN = Path("run")


def again(corpus: Corpus, *given: Path, cache: Path | None = None) -> Corpus:
    record, names = corpus.record(), [str(name) for name in given]
    return recorded.load(names, record, SETTINGS, corpus.vocabulary, RUN, "Do this.", cache)


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
    assert again(built_in).name == "python"
    assert recorded._files(built_in.record(), RUN, "") == []
