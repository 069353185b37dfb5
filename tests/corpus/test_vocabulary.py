import json
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.vocabulary import Vocabulary, describe_character
from charlm.errors import CheckpointError, TextError


@given(st.text())
def test_characters_are_unique_and_sorted(text: str) -> None:
    assert Vocabulary.from_text(text).characters == sorted(set(text), key=ord)


@given(st.text(min_size=1))
@example("\0")
@example("\N{RIGHT-TO-LEFT OVERRIDE}abc\N{POP DIRECTIONAL FORMATTING}")
@example("e\N{COMBINING ACUTE ACCENT}é\r\n\r")
@example("\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\U0010ffff\ufeff")
@example("\ud800 alone")
def test_encode_decode_roundtrip(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert vocabulary.decode(ids) == text


@given(st.text(min_size=1), st.data())
def test_vocabulary_encodes_any_text_of_its_characters(text: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary.from_text(text)
    other = data.draw(st.text(alphabet=vocabulary.characters))
    assert vocabulary.decode(vocabulary.encode(other)) == other


def test_the_first_character_has_id_0() -> None:
    assert Vocabulary.from_text("cabbage").encode("abc").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("characters", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_ids_have_smallest_unsigned_type(characters: int, dtype: type) -> None:
    text = "".join(chr(0x10000 + n) for n in range(characters))
    ids = Vocabulary.from_text(text).encode(text)
    assert ids.dtype == dtype
    assert ids[-1] == characters - 1


@given(st.text(min_size=1))
def test_start_token_follows_last_character(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert vocabulary.start_id == len(vocabulary) == vocabulary.encode(text).max() + 1


def test_unknown_character_is_named() -> None:
    with pytest.raises(TextError, match=r"^1 character .*'é' \(U\+00E9 LATIN SMALL LETTER E WITH ACUTE\)\."):
        Vocabulary.from_text("abc").encode("abécé")


@pytest.mark.parametrize(("unknown", "listed"), [(2, 2), (10, 10), (11, 10), (1000, 10)])
def test_unknown_characters_error_lists_at_most_ten(unknown: int, listed: int) -> None:
    with pytest.raises(TextError) as raised:
        Vocabulary.from_text("abc").encode("".join(chr(0x1000 + n) for n in range(unknown)) * 2)
    assert raised.value.message.startswith(f"{unknown:,} characters ")
    assert raised.value.message.count("(U+") == listed
    assert raised.value.message.endswith("…" if unknown > listed else ".")


@given(st.characters())
def test_character_descriptions_are_ascii(character: str) -> None:
    description = describe_character(character)
    assert description.isprintable()
    assert f"U+{ord(character):04X}" in description
    assert unicodedata.name(character, "") in description


@pytest.mark.parametrize(
    ("character", "name"),
    [("\0", " NULL"), ("\n", " LINE FEED"), ("\x1f", " UNIT SEPARATOR"), ("\x7f", " DELETE"), ("\x80", "")],
)
def test_control_characters_have_names(character: str, name: str) -> None:
    assert describe_character(character).endswith(f"(U+{ord(character):04X}{name})")


@given(st.text(min_size=1))
@example("\0\r\n\N{RIGHT-TO-LEFT OVERRIDE}")
def test_vocabulary_json_roundtrip(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_json_contains_unit_characters_and_unknown_id() -> None:
    assert Vocabulary.from_text("ba").to_json() == {"unit": "character", "characters": ["a", "b"], "unknown_id": None}


@pytest.mark.parametrize(
    "content",
    [
        None,
        ["a", "b"],
        {},
        {"characters": None},
        {"characters": "ab"},
        {"characters": {"a": 0}},
        {"characters": []},
        {"characters": ["ab"]},
        {"characters": ["a", ""]},
        {"characters": ["a", 98]},
        {"characters": ["a", ["b"]]},
        {"characters": ["b", "a"]},
        {"characters": ["a", "a"]},
    ],
    ids=repr,
)
def test_invalid_vocabulary_json_is_rejected(content: object) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        Vocabulary.from_json(content)


# Rare characters, bytes, two vocabularies


def test_rare_characters_share_one_unknown_token() -> None:
    vocabulary = Vocabulary.from_counts("cab", [3, 2, 1], min_count=2)
    assert vocabulary.characters == ["a", "c"]
    assert (vocabulary.unknown_id, vocabulary.start_id, len(vocabulary)) == (2, 3, 3)
    assert vocabulary.lookup_ids("cabx").tolist() == [1, 0, 2, 2]
    assert vocabulary.decode([1, 0, 2]) == "ca\N{REPLACEMENT CHARACTER}"
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    assert vocabulary.to_json()["unknown_id"] == 2


def test_no_unknown_token_without_rare_characters() -> None:
    assert Vocabulary.from_counts("ab", [5, 5], min_count=5) == Vocabulary.from_text("ab")


def test_outside_character_has_no_id_without_unknown_token() -> None:
    assert Vocabulary.from_text("abc").lookup_ids("cx").tolist() == [2, -1]


def test_unknown_penalty_is_log_of_remaining_characters() -> None:
    assert Vocabulary(["a", "b"], has_unknown=True).unknown_penalty_nats == math.log(1_112_064 - 2)


@given(st.binary())
def test_byte_ids_are_byte_values(data: bytes) -> None:
    vocabulary = Vocabulary.for_bytes()
    assert len(vocabulary) == vocabulary.start_id == 256
    assert vocabulary.lookup_ids(data.decode("latin-1")).tolist() == list(data)
    assert vocabulary.to_bytes(list(data)) == data
    assert vocabulary.decode(list(data)) == data.decode("utf-8", "replace")


@given(st.text())
def test_byte_vocabulary_encodes_utf_8(text: str) -> None:
    assert bytes(Vocabulary.for_bytes().encode(text)) == text.encode()
    assert Vocabulary.for_bytes().decode(Vocabulary.for_bytes().encode(text)) == text


def test_union_of_vocabularies_is_sorted() -> None:
    both = Vocabulary(["a", "d"], has_unknown=True) | Vocabulary(["b", "d"])
    assert both.characters == ["a", "b", "d"]
    assert both.unknown_id == 3


@pytest.mark.parametrize(
    "content",
    [
        {"unit": "word", "characters": ["a"], "unknown_id": None},
        {"unit": "character", "characters": ["a"], "unknown_id": 0},
        {"unit": "character", "characters": ["a"], "unknown_id": True},
        {"unit": "byte", "characters": ["a"], "unknown_id": None},
        {"unit": "byte", "characters": [chr(byte) for byte in range(256)], "unknown_id": 256},
    ],
)
def test_impossible_vocabulary_json_is_rejected(content: object) -> None:
    with pytest.raises(CheckpointError):
        Vocabulary.from_json(content)
