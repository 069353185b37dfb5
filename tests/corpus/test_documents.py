import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import CorpusSettings, ModelSettings
from charlm.corpus import encoded_text, loading
from charlm.corpus.text import Text
from charlm.corpus.windows import Lanes
from charlm.errors import CharlmError, TextError
from charlm.evaluation.loss import evaluate
from charlm.model.language_model import CharacterModel


def load(folder: Path, *texts: str | bytes, **settings: Any) -> loading.Corpus:
    paths = []
    for index, text in enumerate(texts):
        paths.append(folder / f"{index}.txt")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    chosen = CorpusSettings(**{"validation_fraction": 0.1, **settings})
    return loading.load_corpus([str(path) for path in paths], chosen, 2, folder / "cache")


def starts(corpus: loading.Corpus) -> list[int]:
    return corpus.text.document_starts.tolist()


def documents(text: Text) -> list[np.ndarray]:
    """The ids of each document of a text, the first one from the text's start."""
    edges = [start - text.offset for start in text.document_starts if 0 < start - text.offset < len(text)]
    return np.split(text[:], edges)


@pytest.mark.parametrize("block", [3, 4, 1 << 20])
@given(
    st.lists(st.sampled_from("abx"), min_size=12, max_size=40).map("".join),
    st.sampled_from(["a", "ab", "aa", "aba", "aaa"]),
)
def test_document_starts_after_each_separator(block: int, text: str, separator: str) -> None:
    text += separator + "bx"
    expected = [0, *(match.end() for match in re.finditer(separator, text) if match.end() < len(text))]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(encoded_text, "BLOCK", block)
        assert starts(load(Path(folder), text, document_separator=separator)) == expected


def test_multi_character_separators(tmp_path: Path) -> None:
    assert starts(load(tmp_path, "one\r\n\ttwo\r\n\tthree", document_separator="\r\n\t")) == [0, 6, 12]


@pytest.mark.parametrize("damage", ["cut", "cut by a number", "emptied", "overwritten"])
def test_truncated_document_starts_are_recomputed(tmp_path: Path, damage: str) -> None:
    corpus = load(tmp_path, "name\n" * 30, document_separator="\n")
    (path,) = corpus.encoded.folder.glob("document_starts-*")
    data = path.read_bytes()
    path.unlink()  # what is mapped must not change under the one who reads it
    path.write_bytes({"cut": data[:-3], "cut by a number": data[:-8], "emptied": b"", "overwritten": b"x" * 16}[damage])
    again = load(tmp_path, "name\n" * 30, document_separator="\n")
    assert starts(again) == starts(corpus) == list(range(0, 150, 5))


@pytest.mark.parametrize("block", [3, 5, 1 << 20])
def test_file_and_separator_starts_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(encoded_text, "BLOCK", block)
    corpus = load(tmp_path, "ab.cd", ".x.", "no", "one..", document_per_file=True, document_separator=".")
    assert starts(corpus) == [0, 3, 5, 6, 8, 10, 14]


def test_separators_in_any_script_and_in_bytes(tmp_path: Path) -> None:
    assert starts(load(tmp_path, "eins§zwei§§drei", document_separator="§")) == [0, 5, 10, 11]
    assert starts(load(tmp_path, "eins§zwei§§drei", document_separator="§", unit="byte")) == [0, 6, 12, 14]


def test_each_file_can_be_a_document(tmp_path: Path) -> None:
    assert starts(load(tmp_path, "one", "", "two\nmore\n", "three", document_per_file=True)) == [0, 3, 12]
    both = load(tmp_path, "one\nmore", "two\nmore\n", "three", document_per_file=True, document_separator="\n")
    assert starts(both) == [0, 4, 8, 12, 17]


def test_no_documents_by_default(tmp_path: Path) -> None:
    assert starts(load(tmp_path, "one\n", "two\n")) == []


@pytest.mark.parametrize("separator", ["§", "on"])
def test_missing_separator_is_rejected(tmp_path: Path, separator: str) -> None:
    with pytest.raises(TextError, match=rf"^--document-separator '{separator}': "):
        load(tmp_path, "two three four", document_separator=separator)


def test_full_disk_while_storing_starts_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("charlm.corpus.documents.find_document_starts", full)
    with pytest.raises(CharlmError, match=r"cache: .* No space left") as raised:
        load(tmp_path, "name\n" * 30, document_separator="\n")
    assert "--cache-dir" in raised.value.hint


def test_document_starts_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name\n" * 30
    expected = starts(load(tmp_path, text, document_separator="\n"))
    monkeypatch.setattr("charlm.corpus.documents.find_document_starts", None)
    assert starts(load(tmp_path, text, document_separator="\n")) == expected


NAMES = "".join(f"{['Anna', 'Bartholomew', 'Cy', 'Dora-Maria', 'E'][n % 5]}{n % 7}\n" for n in range(120))


@pytest.fixture(params=["lstm", "gru", "rnn"])
def model(request: pytest.FixtureRequest) -> CharacterModel:
    """Weights large enough that the past matters."""
    settings = ModelSettings(cell=request.param, hidden_size=8, embedding_size=5)
    model = CharacterModel(len(set(NAMES)), settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def alone(model: CharacterModel, ids: np.ndarray) -> torch.Tensor:
    """What each character of a document costs that is all there is."""
    read = torch.from_numpy(np.concatenate([[model.vocabulary_size], ids[:-1]]))[:, None]
    logits, _ = model(read, model.zero_state(1))
    return torch.nn.functional.cross_entropy(logits[:, 0], torch.from_numpy(ids), reduction="none")


@torch.no_grad()
def test_training_windows_equal_separate_documents(tmp_path: Path, model: CharacterModel) -> None:
    corpus = load(tmp_path, NAMES, document_separator="\n")
    text = corpus.subrange(corpus.split.train)
    lanes = Lanes(text, batch_size=3, sequence_length=11)
    losses = np.full((lanes.batch_size, lanes.windows_per_epoch * 11), np.nan)
    state = model.zero_state(3)
    for number in range(lanes.windows_per_epoch):
        window = lanes.window(number)
        logits, state = model(torch.from_numpy(window.inputs), state, window.resets)
        costs = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(window.targets).flatten(), reduction="none"
        )
        losses[:, number * 11 : number * 11 + len(window.inputs)] = costs.view(-1, 3).T.numpy()
    flat = losses[:, : lanes.lane_length].ravel()[: len(text)]  # lane after lane: the text
    position, compared = 0, 0
    for ids in documents(text):
        end = position + len(ids)
        if position // lanes.lane_length == (end - 1) // lanes.lane_length:  # no lane's start cuts it
            np.testing.assert_allclose(flat[position:end], alone(model, ids).numpy(), atol=1e-5)
            compared += 1
        position = end
    assert compared >= len(documents(text)) - 2


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_evaluation_equals_separate_documents(tmp_path: Path, model: CharacterModel, chunk: int) -> None:
    corpus = load(tmp_path, NAMES, document_separator="\n")
    text = corpus.subrange(corpus.split.train)
    expected = torch.cat([alone(model, ids) for ids in documents(text)]).mean().item()
    assert evaluate(model, text, chunk=chunk).nats_per_character == pytest.approx(expected, abs=1e-6)


def test_gradients_do_not_cross_document_boundaries(tmp_path: Path, model: CharacterModel) -> None:
    corpus = load(tmp_path, NAMES, document_separator="\n")
    window = Lanes(corpus.text, 1, 40).window(0)
    assert window.resets is not None
    state = tuple(part.requires_grad_() for part in model.zero_state(1))
    logits, _ = model(torch.from_numpy(window.inputs), state, window.resets)
    first = int(np.flatnonzero(window.resets[:, 0])[1])
    later = torch.autograd.grad(logits[first:].square().sum(), state, retain_graph=True)
    assert all(not part.any() for part in later)


def test_windows_have_resets_only_with_documents(tmp_path: Path) -> None:
    plain = load(tmp_path, NAMES)
    assert Lanes(plain.text, 2, 16).window(1).resets is None
    with_documents = load(tmp_path, NAMES, document_separator="\n")
    window = Lanes(with_documents.text, 2, 16).window(1)
    assert window.resets is not None
    assert (window.inputs[window.resets] == with_documents.vocabulary.start_id).all()
    assert (window.inputs[~window.resets] != with_documents.vocabulary.start_id).all()
