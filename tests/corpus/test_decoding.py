import gzip
import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.config import CorpusSettings
from charlm.corpus import decoding
from charlm.errors import TextError, UsageError

ENCODINGS = ["utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "UTF8", "utf-8-sig"]
SCRIPTS = {
    "chinese": "你好，世界。",
    "arabic": "السلام عليكم",
    "devanagari": "नमस्ते दुनिया",
    "emoji with joiners": "👩\u200d🚀👨\u200d👩\u200d👧\u200d👦🏳️\u200d🌈",
    "hangul in pieces": unicodedata.normalize("NFD", "한국어"),
    "vietnamese in pieces": unicodedata.normalize("NFD", "Tiếng Việt"),
}


@pytest.fixture(params=[1, 2, 3, 7, 1 << 20])
def chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """However the bytes are cut, the text is the same."""
    monkeypatch.setattr(decoding, "CHUNK_BYTES", request.param)
    return int(request.param)


def decode(data: bytes, **settings: object) -> str:
    return "".join(decoding.decode_stream(io.BytesIO(data), Path("a.txt"), CorpusSettings(**settings)))


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_all_scripts_are_decoded(text: str, chunk_bytes: int) -> None:
    assert decode(text.encode()) == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding_setting_is_used(encoding: str, chunk_bytes: int) -> None:
    assert decode("déjà vu\n".encode(encoding), encoding=encoding) == "déjà vu\n"


@given(st.text())
@example("\0\x85\u2028\r")
def test_line_endings_are_preserved(text: str) -> None:
    assert decode(("x\r\ny\rz\n" + text).encode()) == "x\r\ny\rz\n" + text


def test_only_initial_byte_order_mark_is_removed(chunk_bytes: int) -> None:
    assert decode("\ufeffone\ufefftwo".encode()) == "one\ufefftwo"
    assert decode("\ufeff".encode()) == ""
    assert decode("\ufeff\ufeff".encode()) == "\ufeff"


def test_newline_lf_normalizes_line_endings(chunk_bytes: int) -> None:
    assert decode(b"a\r\nb\rc\n\r\n\r", newline="lf") == "a\nb\nc\n\n\n"


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_nfc_matches_normalization_of_whole_text(text: str, chunk_bytes: int) -> None:
    assert decode((text * 3).encode(), normalize="nfc") == unicodedata.normalize("NFC", text * 3)


@given(st.lists(st.sampled_from("aeé \u0301\u0302\u0327\u1100\u1161\u11a8가각क\u093c\u09c7\u09be\u0303Ω\u0345")))
def test_nfc_of_any_text_in_any_pieces(letters: list[str]) -> None:
    pieces = list(decoding._normalize_nfc(iter(letters)))
    assert "".join(pieces) == unicodedata.normalize("NFC", "".join(letters))


def test_safe_boundary_characters_never_combine_backward() -> None:
    seconds = {chr(code) for code in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]}  # of Hangul, by arithmetic
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    cuts = [chr(code) for code in range(0x110000) if decoding._SAFE_BOUNDARY.match(chr(code))]
    assert len(cuts) > 20_000
    assert not seconds & set(cuts)
    assert not [character for character in cuts if unicodedata.combining(character)]


@pytest.mark.parametrize("byte", [b"\xff", b"\xc3"])
def test_undecodable_bytes_can_be_replaced(byte: bytes, chunk_bytes: int) -> None:
    assert decode(b"caf" + byte + b" au lait" + byte, decode_errors="replace") == "caf\ufffd au lait\ufffd"


@pytest.mark.parametrize(
    ("data", "offset", "line"),
    [
        (b"\xff", 0, 1),
        (b"one\ntwo\n\xc3\xa9 \xff", 11, 3),
        (b"a\r\nb\r\n\xc3", 6, 3),
        ("é".encode() * 9 + b"\n\xe2\x82", 19, 2),
        (b"\n" * 2000 + b"\xff", 2000, 2001),
    ],
)
def test_decode_error_names_file_offset_and_line(data: bytes, offset: int, line: int, chunk_bytes: int) -> None:
    where = rf"^a\.txt: .*utf-8.* 0x{data[offset]:02x} at offset {offset:,} \(line {line:,}\)\."
    with pytest.raises(TextError, match=where):
        decode(data)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Le café était fermé.\n" * 9, "cp1252"),
        ("天地玄黄，宇宙洪荒。\n" * 9, "gb18030"),
        ("Съешь ещё этих булок.\n" * 9, "cp1251"),
    ],
)
def test_decode_error_suggests_encodings(text: str, encoding: str) -> None:
    with pytest.raises(TextError) as raised:
        decode(text.encode(encoding))
    assert encoding in raised.value.hint
    assert "--decode-errors replace" in raised.value.hint
    assert decode(text.encode(encoding), encoding=encoding) == text


def test_utf_16_with_byte_order_mark_is_recognized() -> None:
    with pytest.raises(TextError) as raised:
        decode("Hello".encode("utf-16"))
    assert "utf-16" in raised.value.hint


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 50, gzip.compress(bytes(99), mtime=0)])
def test_binary_file_error_suggests_unit_byte(data: bytes) -> None:
    with pytest.raises(TextError) as raised:
        decode(data)
    assert "binary" in raised.value.hint
    assert "--unit byte" in raised.value.hint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_text_truncated_within_character_is_rejected(encoding: str, chunk_bytes: int) -> None:
    with pytest.raises(TextError, match=rf"^a\.txt: .*{encoding}"):
        decode("Hello".encode(encoding)[:-1], encoding=encoding)


@given(st.binary())
def test_unit_byte_reads_raw_bytes(data: bytes) -> None:
    assert decode(data, unit="byte").encode("latin-1") == data


@pytest.mark.parametrize("encoding", ["utf-9", "", "base64", "undefined", "hex", "rot13"])
def test_non_text_encoding_is_rejected(encoding: str) -> None:
    with pytest.raises(UsageError, match=f"^--encoding {encoding}: "):
        decode(b"abcd", encoding=encoding)


@pytest.mark.parametrize("unify", [{}, {"newline": "lf"}, {"normalize": "nfc"}, {"newline": "lf", "normalize": "nfc"}])
def test_string_is_normalized_like_a_file(unify: dict[str, str]) -> None:
    text = "e\N{COMBINING ACUTE ACCENT}t\r\ne\rx\n"
    read = decoding.normalize_text(text, CorpusSettings(**unify))
    assert read == decode(text.encode(), **unify)
    assert (read == text) == (not unify)
