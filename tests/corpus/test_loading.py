import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import CorpusSettings
from charlm.corpus import loading
from charlm.corpus.split import make_split, min_length
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import TextError, UsageError
from charlm.run_corpus import CorpusFile

FRACTIONS = st.floats(0, 0.49)
VALIDATION_FRACTIONS = st.floats(0, 0.49, exclude_min=True)
SPLITS = [
    CorpusSettings(),
    CorpusSettings(test_fraction=0.1),
    CorpusSettings(validation_fraction=0.5),
    CorpusSettings(validation_fraction=0.9),
    CorpusSettings(validation_fraction=0.01, test_fraction=0.5),
    CorpusSettings(validation_fraction=0.001),
]


def load(path: Path, text: str, settings: CorpusSettings, sequence_length: int = 4) -> loading.Corpus:
    path.write_text(text, encoding="utf-8", newline="")
    return loading.load_corpus([str(path)], settings, sequence_length)


def letters(length: int) -> str:
    return ("ab" * length)[:length]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


@pytest.mark.parametrize("fraction", [0.1, "auto"])
def test_tiny_shakespeare_has_the_usual_split(fraction: object) -> None:
    split = make_split(1_115_394, CorpusSettings(validation_fraction=fraction))
    assert (len(split.train), len(split.validation), len(split.test)) == (1_003_854, 111_540, 0)


@given(st.integers(0, 10**12), VALIDATION_FRACTIONS | st.just("auto"), FRACTIONS)
def test_splits_partition_the_text(characters: int, validation: object, test: float) -> None:
    split = make_split(characters, CorpusSettings(validation_fraction=validation, test_fraction=test))
    assert split.train.start == 0
    assert split.train.stop == split.validation.start
    assert split.validation.stop == split.test.start
    assert split.test.stop == characters
    assert all(part.start <= part.stop for part in (split.train, split.validation, split.test))


@given(st.integers(0, 10**12), VALIDATION_FRACTIONS, FRACTIONS)
def test_validation_fraction_is_used(characters: int, validation: float, test: float) -> None:
    split = make_split(characters, CorpusSettings(validation_fraction=validation, test_fraction=test))
    assert len(split.train) == int(characters * (1 - validation - test))
    assert len(split.validation) == pytest.approx(characters * validation, abs=1)
    assert len(split.test) == pytest.approx(characters * test, abs=1)


@pytest.mark.parametrize("characters", [10_000_001, 15_552_671, 17_678_319, 10**9, 10**11])
def test_auto_validation_is_at_most_a_million_characters(characters: int) -> None:
    assert len(make_split(characters, CorpusSettings()).validation) == 1_000_000


def test_no_test_split_by_default() -> None:
    assert len(make_split(1000, CorpusSettings()).test) == 0


@pytest.mark.parametrize("sequence_length", [1, 2, 7, 64])
@pytest.mark.parametrize("settings", SPLITS, ids=str)
def test_min_length_is_exact(path: Path, settings: CorpusSettings, sequence_length: int) -> None:
    needed = min_length(settings, sequence_length)
    corpus = load(path, letters(needed), settings, sequence_length)
    assert len(corpus.split.train) >= sequence_length
    assert len(corpus.split.validation) >= 1
    with pytest.raises(TextError, match=f"at least {needed:,}"):
        load(path, letters(needed - 1), settings, sequence_length)


@pytest.mark.parametrize("settings", SPLITS, ids=str)
def test_accepted_text_has_training_and_validation_split(path: Path, settings: CorpusSettings) -> None:
    for length in itertools.chain(range(2, 60), range(1000, 1010)):
        try:
            corpus = load(path, letters(length), settings)
        except TextError:
            continue
        assert len(corpus.split.train) >= 4
        assert len(corpus.split.validation) >= 1


@pytest.mark.timeout(5)
@pytest.mark.parametrize("fraction", [1e-300, 1 - 1e-9])
def test_fractions_that_leave_empty_splits_are_rejected(path: Path, fraction: float) -> None:
    with pytest.raises((TextError, UsageError)):
        load(path, letters(10_000), CorpusSettings(validation_fraction=fraction))


@pytest.mark.parametrize("text", ["", "\ufeff"])
def test_empty_text_is_rejected(path: Path, text: str) -> None:
    with pytest.raises(TextError, match=r"text\.txt: empty"):
        load(path, text, CorpusSettings())


def test_single_character_text_is_rejected(path: Path) -> None:
    with pytest.raises(TextError, match=r"text\.txt: .*'\\n'"):
        load(path, "\n" * 1000, CorpusSettings())


def test_too_short_error_counts_files(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "ab"]
    for name in names:
        Path(name).write_text("ab")
    with pytest.raises(TextError, match=r"^these 2 files: 4 characters"):
        loading.load_corpus(names, CorpusSettings(), 64)


def test_vocabulary_covers_whole_text(path: Path) -> None:
    corpus = load(path, "ab" * 50 + "é", CorpusSettings())
    assert corpus.vocabulary.characters == ["a", "b", "é"]
    assert corpus.count_unseen_in_training() == 1
    assert load(path, "é" + "ab" * 50, CorpusSettings()).count_unseen_in_training() == 0


@given(st.text(alphabet="aäb\0\r\n\U0001f600", min_size=100, max_size=200).filter(lambda text: len(set(text)) > 1))
def test_ids_of_text_and_splits(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    corpus = load(tmp_path_factory.getbasetemp() / "any.txt", text, CorpusSettings(test_fraction=0.2))
    parts = [corpus.subrange(part)[:] for part in (corpus.split.train, corpus.split.validation, corpus.split.test)]
    assert corpus.vocabulary.decode(np.concatenate(parts)) == text
    assert corpus.vocabulary.decode(corpus.text[:]) == text


def test_record_contains_files_counts_and_ranges(path: Path) -> None:
    corpus = load(path, "äb" * 50, CorpusSettings(test_fraction=0.1))
    data = path.read_bytes()
    assert corpus.to_record().model_dump() == {
        "name": "text",
        "built_in": False,
        "unit": "character",
        "length": 100,
        "alphabet_size": 2,
        "num_documents": 0,
        "num_files": 1,
        "files_sha256": hashlib.sha256(f"{hashlib.sha256(data).hexdigest()}\n".encode()).hexdigest(),
        "shuffle_seed": None,
        "split": {"train": [0, 80], "validation": [80, 90], "test": [90, 100]},
    }
    with_files = CorpusFile.describe(corpus, path.parent / "run").model_dump()
    assert with_files == {
        **corpus.to_record().model_dump(),
        "inputs": [str(path)],
        "working_folder": str(Path.cwd()),
        "run_folder": str(path.parent / "run"),
        "files": [
            {
                "path": str(path),
                "size_bytes": 150,
                "sha256": hashlib.sha256(data).hexdigest(),
                "length": 100,
            }
        ],
    }


def test_rare_characters_are_counted(path: Path) -> None:
    corpus = load(path, "ab" * 50 + "éé" + "ü", CorpusSettings(min_count=3))
    assert corpus.vocabulary.characters == ["a", "b"]
    assert corpus.count_unknown() == (3, 2)
    assert corpus.text[-3:].tolist() == [2, 2, 2]
    assert load(path, "ab" * 50, CorpusSettings(min_count=3)).count_unknown() == (0, 0)


def test_text_of_only_rare_characters_is_rejected(path: Path) -> None:
    with pytest.raises(TextError, match=r"^--min-count 3: "):
        load(path, "abcdefghijklmnop", CorpusSettings(min_count=3))


def test_byte_vocabulary_has_all_256_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 50)
    corpus = loading.load_corpus([str(path)], CorpusSettings(unit="byte"), 4)
    assert len(corpus.vocabulary) == 256
    assert corpus.text[:4].tolist() == [255, 0, 255, 0]
    assert corpus.count_unseen_in_training() == 0


def test_corpus_with_other_vocabulary(path: Path) -> None:
    corpus = load(path, "ab" * 50, CorpusSettings()).with_vocabulary(Vocabulary(["a", "b", "c"]))
    assert corpus.text[:3].tolist() == [0, 1, 0]
    assert corpus.text.vocabulary.start_id == 3
    with pytest.raises(TextError, match=r"'b' \(U\+0062"):
        corpus.with_vocabulary(Vocabulary(["a", "c"]))
