"""What a model is tried on: a part of its own text, found again and verified, or another that is read likewise."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm import files, run_corpus
from charlm.checkpoint.contents import SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import TrainSettings
from charlm.corpus import loading
from charlm.corpus.analysis.baselines import compute_baselines
from charlm.errors import TextError, UsageError
from charlm.evaluation import evaluation_text
from charlm.evaluation.evaluation_text import EvaluationText
from charlm.progress import TrainingProgress
from charlm.run_corpus import CorpusFile

RUN = Path("run")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def saved(poem_file: Path) -> SavedModel:
    return train_on(poem_file)


def train_on(path: Path, **settings: Any) -> SavedModel:
    """A model of a training on a text, as far as its text goes."""
    chosen = TrainSettings(**{"test_fraction": 0.1, "sequence_length": 16, **settings})
    corpus = loading.load_corpus([str(path)], chosen, 16)
    files.make_folder(RUN)
    files.write_file(RUN / run_corpus.NAME, CorpusFile.describe(corpus, RUN).encode())
    environment = describe_environment(torch.device("cpu"), "fp32")
    return SavedModel(1, chosen, corpus.vocabulary, {}, TrainingProgress(steps=1), corpus.to_record(), environment)


def raw_text(evaluated: EvaluationText) -> str:
    return "".join(evaluated.alphabet[id_] for id_ in evaluated.text.raw_ids.tolist())


def select(saved: SavedModel, *names: Path, split: str | None = None, encoding: str | None = None) -> EvaluationText:
    return evaluation_text.select_text(list(map(str, names)), split, encoding, saved, RUN)


def test_default_is_validation_split_of_run_corpus(saved: SavedModel, poem: str) -> None:
    (a, b), (c, d) = (saved.corpus.split.validation, saved.corpus.split.test)
    assert raw_text(select(saved)) == raw_text(select(saved, split="validation")) == poem[a:b]
    assert raw_text(select(saved, split="test")) == poem[c:d]
    assert select(saved).name == "the validation split of poem"


def test_named_text_is_used_whole_with_run_settings(tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.txt").write_bytes(poem.encode("latin-1"))
    (tmp_path / "other.txt").write_bytes("Die Wölfe\r\nzählen.\r\n".encode("latin-1"))
    saved = train_on(tmp_path / "poem.txt", encoding="latin-1", newline="lf", document_separator="\n")
    tried = select(saved, tmp_path / "other.txt")
    assert raw_text(tried) == "Die Wölfe\nzählen.\n"
    assert tried.text[:].tolist() == saved.vocabulary.encode("Die Wölfe\nzählen.\n").tolist()
    assert tried.text.document_starts.tolist() == [0, 10]


def test_encoding_can_be_overridden(saved: SavedModel, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_bytes("été".encode("utf-16"))
    assert raw_text(select(saved, tmp_path / "other.txt", encoding="utf-16")) == "été"
    with pytest.raises(TextError, match=r"utf-8.* 0x"):
        select(saved, tmp_path / "other.txt")


def test_text_without_separator_is_one_document(tmp_path: Path, poem_file: Path) -> None:
    (tmp_path / "line.txt").write_text("Die")
    tried = select(train_on(poem_file, document_separator="\n"), tmp_path / "line.txt")
    assert tried.text.document_starts.tolist() == [0]


def test_unknown_characters_map_to_token_or_are_rejected(tmp_path: Path, poem_file: Path) -> None:
    (tmp_path / "other.txt").write_text("☃Die☃Ж", encoding="utf-8")
    with pytest.raises(TextError, match=r"2 characters .* SNOWMAN"):
        select(train_on(poem_file), tmp_path / "other.txt")
    saved = train_on(poem_file, min_count=75)
    tried = select(saved, tmp_path / "other.txt")
    assert raw_text(tried) == "☃Die☃Ж"
    assert tried.text[:].tolist().count(saved.vocabulary.unknown_id) >= 3


@pytest.mark.parametrize(("unit", "text", "size"), [("character", "dé☃😀", 1 + 2 + 3 + 4), ("byte", "dé☃😀", 10)])
def test_size_bytes_is_utf_8_length(tmp_path: Path, unit: str, text: str, size: int) -> None:
    (tmp_path / "text.txt").write_text(text * 40, encoding="utf-8")
    saved = train_on(tmp_path / "text.txt", unit=unit, test_fraction=0.0)
    assert select(saved, tmp_path / "text.txt").size_bytes == 40 * size


def test_invalid_combinations_are_rejected(saved: SavedModel, poem_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UsageError, match=r"^--split test: "):
        select(saved, poem_file, split="test")
    with pytest.raises(UsageError, match=r"^--encoding latin-1: "):
        select(saved, encoding="latin-1")
    with pytest.raises(UsageError, match=r"^--split test: "):
        select(train_on(poem_file, test_fraction=0.0), split="test")
    with pytest.raises(TextError, match="empty"):
        select(saved, tmp_path / "empty.txt")
    with pytest.raises(UsageError, match=r"^--encoding latin-1: .*byte-level"):
        select(train_on(poem_file, unit="byte"), poem_file, encoding="latin-1")


def test_run_corpus_is_verified(saved: SavedModel, poem_file: Path, poem: str) -> None:
    poem_file.write_text(poem.replace("Schafe", "Ziegen"), encoding="utf-8", newline="")
    with pytest.raises(UsageError, match=r"^run: .*poem\.txt") as caught:
        select(saved)
    assert "RUN TEXT" in caught.value.hint


def test_missing_text_is_loaded_from_cache(saved: SavedModel, poem_file: Path, tmp_path: Path) -> None:
    expected = raw_text(select(saved))
    poem_file.unlink()
    assert raw_text(select(saved)) == expected
    with pytest.raises(UsageError, match=r"^run: .*not found.*poem\.txt"):
        evaluation_text.select_text([], None, None, saved, RUN, tmp_path / "empty cache")


def test_baselines_of_run_corpus_match_inspection(saved: SavedModel) -> None:
    corpus = evaluation_text.load_run_corpus(saved, RUN)
    ids, split = corpus.text[:], corpus.split
    expected = compute_baselines(
        ids[: split.train.stop], ids[split.validation.start : split.validation.stop], corpus.vocabulary
    )
    assert evaluation_text.compute_baselines_for(select(saved), corpus) == expected


def test_baselines_of_other_text_use_both_alphabets(saved: SavedModel, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("e☃" * 50, encoding="utf-8")
    known = train_on(tmp_path / "other.txt", test_fraction=0.0)
    corpus = evaluation_text.load_run_corpus(saved, RUN)
    found = evaluation_text.compute_baselines_for(select(known, tmp_path / "other.txt"), corpus)
    training = corpus.split.train.stop
    distinct = len({*corpus.encoded.alphabet, "☃"})
    e = int(np.count_nonzero(corpus.encoded.ids[:training] == corpus.encoded.alphabet.index("e")))
    seen = len(np.unique(corpus.encoded.ids[:training]))
    by_hand = [(count + seen / distinct) / (training + seen) for count in (e, 0)]
    assert found.ngram_bits[0] == pytest.approx(-sum(math.log2(p) for p in by_hand) / 2)
    assert found.xz_bits < 8
