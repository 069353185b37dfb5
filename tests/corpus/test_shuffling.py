"""``--shuffle-documents``: whole documents in another order, the same one each time, before the text is divided."""

import errno
import itertools
import os
import random
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm import files, runs
from charlm.config import CorpusSettings, SettingsSource, resolve
from charlm.corpus import encoded_text, loading, shuffling
from charlm.corpus.analysis import likeness
from charlm.corpus.loading import Corpus
from charlm.errors import CharlmWarning, UsageError
from charlm.evaluation import evaluation_text
from charlm.run_corpus import CorpusFile
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.made_up_names import names
from tests.training.conftest import SETTINGS

LINES = {"document_separator": "\n", "shuffle_documents": True}


def load(path: Path, text: str | bytes, **settings: Any) -> Corpus:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return loading.load_corpus([str(path)], CorpusSettings(**{**LINES, **settings}), 4, path.parent / "cache")


def text_of(corpus: Corpus) -> str:
    return corpus.vocabulary.decode(corpus.text[:])


def documents_of(corpus: Corpus) -> list[str]:
    text, starts = text_of(corpus), corpus.text.document_starts.tolist()
    return [text[start:stop] for start, stop in zip(starts, [*starts[1:], len(text)], strict=True)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


@given(st.lists(st.text("aäb\U0001f600 ", max_size=20), min_size=12, max_size=60), st.booleans())
def test_shuffling_permutes_documents(tmp_path_factory: pytest.TempPathFactory, lines: list[str], ends: bool) -> None:
    written = [f"{line}\n" for line in ["ab", "ba", *lines, "last"]]
    if not ends:
        written[-1] = "last"
    corpus = load(tmp_path_factory.getbasetemp() / "any.txt", "".join(written))
    assert Counter(documents_of(corpus)) == Counter(written)
    if not ends:
        assert documents_of(corpus)[-1] == "last"


def test_order_is_deterministic(path: Path) -> None:
    lines = [f"{number:05}\n" for number in range(10_000)]
    corpus = load(path, "".join(lines))
    found = [int(document) for document in documents_of(corpus)]
    assert found[:5] == [
        6922,
        208,
        6525,
        5753,
        3363,
    ]  # whatever the versions of Python and numpy: a resume must find the same split
    moved = np.abs(np.array(found) - np.arange(len(found)))
    assert 0.32 < moved.mean() / len(found) < 0.35  # a third, of a shuffle
    assert load(path, "".join(lines)).text[:].tolist() == corpus.text[:].tolist()
    assert corpus.to_record().shuffle_seed == shuffling.SEED


def test_shuffled_text_does_not_depend_on_block_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join("x" * (number % 37) + f"{number}\n" for number in range(500))
    whole = text_of(load(path, text))
    monkeypatch.setattr(shuffling, "BLOCK", 7)
    path = path.with_name("other.txt")
    (path.parent / "cache").rename(path.parent / "cache before")
    assert text_of(load(path, text)) == whole


def test_files_and_byte_documents_are_shuffled(path: Path) -> None:
    folder = path.parent / "texts"
    folder.mkdir()
    written = [bytes([number]) * (number + 1) for number in range(40)]
    for number, data in enumerate(written):
        (folder / f"{number:02}.bin").write_bytes(data)
    settings = CorpusSettings(unit="byte", document_per_file=True, shuffle_documents=True)
    corpus = loading.load_corpus([str(folder)], settings, 4, path.parent / "cache")
    starts = [*corpus.text.document_starts.tolist(), len(corpus.text)]
    found = [bytes(corpus.text[first:last].tolist()) for first, last in itertools.pairwise(starts)]
    assert Counter(found) == Counter(written)
    assert found != written
    separated = load(path, b"\xff|a|\xfe\xfd|" * 20, unit="byte", document_separator="|")
    assert Counter(separated.text[:].tolist()) == Counter(b"\xff|a|\xfe\xfd|" * 20)


def test_shuffling_without_documents_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"shuffle_documents.*document_separator"):
        resolve(CorpusSettings, [SettingsSource("test", {"shuffle_documents": True})])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_shuffled_copy_is_rebuilt(path: Path, damage: str) -> None:
    text = "".join(f"{number}\n" for number in range(500))
    corpus = load(path, text)
    before = text_of(corpus)
    (copy,) = corpus.encoded.folder.glob("shuffled-*.bin")
    if damage == "gone":
        copy.unlink()
    else:
        copy.write_bytes(copy.read_bytes()[:-1])
    assert text_of(load(path, text)) == before


def test_unwritable_cache_falls_back_to_temporary_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{number}\n" for number in range(500))
    written = files.atomic_writer

    def full(target: Path) -> AbstractContextManager[BinaryIO]:
        if "cache" in target.parts and path.parent in target.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(target)

    monkeypatch.setattr(files, "atomic_writer", full)
    monkeypatch.setattr("charlm.errors._warned", set())
    files.process_folder.cache_clear()
    with pytest.warns(CharlmWarning, match="temporary folder"):
        found = text_of(load(path, text))
    monkeypatch.undo()
    assert found == text_of(load(path, text))


def test_shuffled_text_is_memory_mapped(path: Path) -> None:
    corpus = load(path, "".join(f"{number}\n" for number in range(500)))
    assert isinstance(corpus.encoded.ids, np.memmap)
    assert corpus.encoded.ids.dtype == encoded_text.ID_TYPES[0]


# Runs


def test_shuffled_run_resumes_and_evaluates_on_its_split(path: Path) -> None:
    path.write_text("".join(f"{name}\n" for name in names(300)))
    out = path.parent / "run"
    asked = {**SETTINGS, **LINES, "max_steps": 2}
    plan = plan_training(TrainingRequest([str(path)], [SettingsSource("test", asked)], out=out))
    plan.train(quiet=True)
    validation = plan.corpus.subrange(plan.corpus.split.validation)[:].tolist()
    saved = runs.load_model(out)
    assert evaluation_text.select_text([], "validation", None, saved, out).text[:].tolist() == validation
    assert CorpusFile.read(out).shuffle_seed == saved.corpus.shuffle_seed == shuffling.SEED
    other_seed = plan_training(
        TrainingRequest([str(path)], [SettingsSource("test", {**asked, "seed": 7})], out=path.parent / "other")
    )
    assert other_seed.corpus.subrange(other_seed.corpus.split.validation)[:].tolist() == validation
    path.unlink()  # and again from the cache
    resumed = plan_training(TrainingRequest([], [SettingsSource("test", {"max_steps": 4})], resume=str(out)))
    assert resumed.corpus.subrange(resumed.corpus.split.validation)[:].tolist() == validation
    resumed.train(quiet=True)
    with pytest.raises(UsageError, match="shuffle_documents"):
        plan_training(TrainingRequest([], [SettingsSource("test", {"shuffle_documents": False})], resume=str(out)))


# The hint


def test_sorted_list_gets_advice_and_shuffled_one_does_not(path: Path) -> None:
    text = "".join(f"{name}\n" for name in names(20_000))
    plain = {"document_separator": "", "shuffle_documents": False}
    documents = {"shuffle_documents": False}
    for settings in (plain, documents):
        corpus = load(path, text, **settings)
        advice = likeness.advise_shuffling(corpus, CorpusSettings(**{**LINES, **settings}))
        assert advice is not None
        assert "--shuffle-documents" in advice
        assert ("--document-separator" in advice) == (settings is plain)
    assert likeness.advise_shuffling(load(path, text), CorpusSettings(**LINES)) is None


def test_homogeneous_text_gets_no_advice(path: Path, poem: str) -> None:
    plain = {"document_separator": "", "shuffle_documents": False}
    in_any_order = random.Random(1).sample(names(3000), 3000)
    for text in (poem * 20, "".join(f"{name} " for name in in_any_order)):
        assert likeness.advise_shuffling(load(path, text, **plain), CorpusSettings(**plain)) is None


def test_short_text_gets_no_advice(path: Path) -> None:
    corpus = load(path, "ab\n" * 50 + "xy\n" * 5, shuffle_documents=False)
    assert likeness.advise_shuffling(corpus, CorpusSettings(document_separator="\n")) is None


def test_advice_is_printed_only_for_new_runs(path: Path) -> None:
    path.write_text("".join(f"{name}\n" for name in names(3000)))
    plan = plan_training(
        TrainingRequest([str(path)], [SettingsSource("test", {**SETTINGS, "max_steps": 1})], out=path.parent / "run")
    )
    assert any("--shuffle-documents" in line for line in plan.startup_messages())
    plan.train(quiet=True)
    resumed = plan_training(TrainingRequest([], [SettingsSource("test", {"max_steps": 2})], resume=str(plan.run)))
    assert not any("--shuffle-documents" in line for line in resumed.startup_messages())
