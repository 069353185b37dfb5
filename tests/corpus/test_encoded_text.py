import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm import files
from charlm.config import CorpusSettings
from charlm.corpus import encoded_text
from charlm.errors import TextError
from tests.corpus.test_decoding import SCRIPTS


def build(folder: Path, *texts: str | bytes, **settings: Any) -> encoded_text.EncodedText:
    """Files with these texts, encoded in ``folder / "built"``."""
    paths = []
    for index, text in enumerate(texts):
        paths.append(folder / f"{index}.txt")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    with files.build_folder(folder) as building:
        encoded_text.encode_files(building.folder, paths, CorpusSettings(**settings), lambda count: None)
        building.path = folder / "built"
    return encoded_text.open_encoded(folder / "built")


def text_of(built: encoded_text.EncodedText) -> str:
    return "".join(built.alphabet[id_] for id_ in built.ids)


@given(st.lists(st.text(), min_size=1, max_size=3))
@example([""])
@example(["", "b", "", "a"])
@example(list(SCRIPTS.values()))
def test_ids_decode_to_text(texts: list[str]) -> None:
    texts = [text.removeprefix("\ufeff") for text in texts]
    texts = [text for text in texts if not text.startswith("\ufeff")]
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder), *texts)
        whole = "".join(texts)
        assert text_of(built) == whole
        assert sorted(built.alphabet) == sorted(set(whole))
        assert built.counts.tolist() == [whole.count(character) for character in built.alphabet]
        assert [file.length for file in built.files] == [len(text) for text in texts]
        starts = np.cumsum([0, *(len(text) for text in texts)])[:-1]
        assert built.file_starts.tolist() == [start for start, text in zip(starts.tolist(), texts, strict=True) if text]


@pytest.mark.parametrize(
    ("distinct", "block"),
    [
        *((distinct, block) for distinct in (1, 2, 256, 257, 300) for block in (1, 7, 100, 1 << 20)),
        *((distinct, block) for distinct in (1 << 16, (1 << 16) + 1) for block in (1000, 1 << 20)),
    ],
)
def test_id_type_widens_with_alphabet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distinct: int, block: int
) -> None:
    monkeypatch.setattr(encoded_text, "BLOCK", block)
    monkeypatch.setattr("charlm.corpus.decoding.CHUNK_BYTES", 200)
    text = "".join(chr(0x10000 + code) for code in reversed(range(distinct))) * 2
    built = build(tmp_path, text)
    assert built.ids.dtype == np.min_scalar_type(max(distinct - 1, 1))
    assert text_of(built) == text


def test_all_unicode_characters_are_encoded(tmp_path: Path) -> None:
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assert len(everything) == 1_112_064
    built = build(tmp_path, "\n" + everything)
    assert len(built.alphabet) == 1_112_064
    assert sorted(built.alphabet) == list(everything)
    assert text_of(built) == "\n" + everything


def test_bytes_are_encoded_as_characters(tmp_path: Path) -> None:
    data = bytes(range(255, 127, -1)) + b"\0\xff\r\n"
    built = build(tmp_path, data, unit="byte")
    assert text_of(built).encode("latin-1") == data


def test_each_file_is_decoded_separately(tmp_path: Path) -> None:
    assert text_of(build(tmp_path, "\ufeffone\r", "\ufeff\ntwo", newline="lf")) == "one\n\ntwo"


def test_decode_error_names_the_right_file(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"1\.txt: .*utf-8.* 0xff .*\b4\b"):
        build(tmp_path, "good " * 1000, b"bad \xff")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.txt", "1.txt"]


def test_incomplete_encoded_text_is_not_opened(tmp_path: Path) -> None:
    build(tmp_path, "some text")
    path = tmp_path / "built" / encoded_text.IDS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="8 ids of 9"):
        encoded_text.open_encoded(tmp_path / "built")


@pytest.mark.parametrize("overlap", [0, 1, 5])
def test_iter_blocks_covers_array(monkeypatch: pytest.MonkeyPatch, overlap: int) -> None:
    monkeypatch.setattr(encoded_text, "BLOCK", 10)
    ids = np.arange(35, dtype=np.uint8)
    found = [(first, block.tolist()) for first, block in encoded_text.iter_blocks(ids, overlap)]
    assert [first for first, _ in found] == [0, 10 - overlap, 20 - overlap, 30 - overlap]
    assert all(block == list(range(first, first + len(block))) for first, block in found)
    assert found[-1][1][-1] == 34
