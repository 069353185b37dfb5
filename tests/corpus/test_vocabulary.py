import json
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.corpus.vocabulary import Vocabulary, describe
from charlm.errors import CheckpointError, TextError


@given(st.text())
def test_characters_are_distinct_and_in_the_order_of_their_code_points(text: str) -> None:
    assert Vocabulary.of(text).characters == sorted(set(text), key=ord)


@given(st.text(min_size=1))
@example("\0")
@example("\N{RIGHT-TO-LEFT OVERRIDE}abc\N{POP DIRECTIONAL FORMATTING}")
@example("e\N{COMBINING ACUTE ACCENT}é\r\n\r")
@example("\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\U0010ffff\ufeff")
@example("\ud800 alone")
def test_any_text_comes_back_from_its_ids(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    assert len(ids) == len(text)
    assert vocabulary.decode(ids) == text


@given(st.text(min_size=1), st.data())
def test_a_vocabulary_encodes_any_text_of_its_characters(text: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary.of(text)
    other = data.draw(st.text(alphabet=vocabulary.characters))
    assert vocabulary.decode(vocabulary.encode(other)) == other


def test_the_first_character_has_id_0() -> None:
    assert Vocabulary.of("cabbage").encode("abc").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("characters", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)],
)
def test_ids_have_the_smallest_unsigned_type_that_holds_them(characters: int, dtype: type) -> None:
    text = "".join(chr(0x10000 + n) for n in range(characters))
    ids = Vocabulary.of(text).encode(text)
    assert ids.dtype == dtype
    assert ids[-1] == characters - 1


@given(st.text(min_size=1))
def test_the_start_symbol_is_one_past_the_last_character(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    assert vocabulary.start_id == len(vocabulary) == vocabulary.encode(text).max() + 1


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(TextError, match=r"^1 character .*'é' \(U\+00E9 LATIN SMALL LETTER E WITH ACUTE\)\."):
        Vocabulary.of("abc").encode("abécé")


@pytest.mark.parametrize(("unknown", "listed"), [(2, 2), (10, 10), (11, 10), (1000, 10)])
def test_unknown_characters_are_counted_and_at_most_ten_are_listed(unknown: int, listed: int) -> None:
    with pytest.raises(TextError) as raised:
        Vocabulary.of("abc").encode("".join(chr(0x1000 + n) for n in range(unknown)) * 2)
    assert raised.value.message.startswith(f"{unknown:,} characters ")
    assert raised.value.message.count("(U+") == listed
    assert raised.value.message.endswith("…" if unknown > listed else ".")


@given(st.characters())
def test_a_character_is_described_by_what_any_terminal_can_show(character: str) -> None:
    description = describe(character)
    assert description.isprintable()
    assert f"U+{ord(character):04X}" in description
    assert unicodedata.name(character, "") in description


@pytest.mark.parametrize(
    ("character", "name"),
    [("\0", " NULL"), ("\n", " LINE FEED"), ("\x1f", " UNIT SEPARATOR"), ("\x7f", " DELETE"), ("\x80", "")],
)
def test_a_control_is_named_after_its_picture(character: str, name: str) -> None:
    assert describe(character).endswith(f"(U+{ord(character):04X}{name})")


@given(st.text(min_size=1))
@example("\0\r\n\N{RIGHT-TO-LEFT OVERRIDE}")
def test_a_vocabulary_comes_back_from_json(text: str) -> None:
    vocabulary = Vocabulary.of(text)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_json_holds_unit_characters_and_the_unknown() -> None:
    assert Vocabulary.of("ba").to_json() == {"unit": "character", "characters": ["a", "b"], "unknown_id": None}


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
def test_json_that_is_no_vocabulary_is_refused(content: object) -> None:
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        Vocabulary.from_json(content)


# Rare characters, bytes, two vocabularies


def test_rarer_characters_are_one_unknown_symbol_after_the_known_ones_and_before_the_start() -> None:
    vocabulary = Vocabulary.of_counts("cab", [3, 2, 1], min_count=2)
    assert vocabulary.characters == ["a", "c"]
    assert (vocabulary.unknown_id, vocabulary.start_id, len(vocabulary)) == (2, 3, 3)
    assert vocabulary.ids_of("cabx").tolist() == [1, 0, 2, 2]
    assert vocabulary.decode([1, 0, 2]) == "ca\N{REPLACEMENT CHARACTER}"
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    assert vocabulary.to_json()["unknown_id"] == 2


def test_without_rarer_ones_there_is_no_unknown_symbol() -> None:
    assert Vocabulary.of_counts("ab", [5, 5], min_count=5) == Vocabulary.of("ab")


def test_a_character_outside_is_none_where_there_is_no_unknown_symbol() -> None:
    assert Vocabulary.of("abc").ids_of("cx").tolist() == [2, -1]


def test_which_of_all_other_characters_an_unknown_one_is_costs_their_number() -> None:
    assert Vocabulary(["a", "b"], has_unknown=True).unknown_nats == math.log(1_112_064 - 2)


@given(st.binary())
def test_bytes_have_their_own_numbers(data: bytes) -> None:
    vocabulary = Vocabulary.of_bytes()
    assert len(vocabulary) == vocabulary.start_id == 256
    assert vocabulary.ids_of(data.decode("latin-1")).tolist() == list(data)
    assert vocabulary.bytes_of(list(data)) == data
    assert vocabulary.decode(list(data)) == data.decode("utf-8", "replace")


@given(st.text())
def test_a_text_is_the_bytes_of_its_utf_8(text: str) -> None:
    assert bytes(Vocabulary.of_bytes().encode(text)) == text.encode()
    assert Vocabulary.of_bytes().decode(Vocabulary.of_bytes().encode(text)) == text


def test_two_vocabularies_together_have_the_characters_of_both_in_order() -> None:
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
def test_json_of_no_such_vocabulary_is_refused(content: object) -> None:
    with pytest.raises(CheckpointError):
        Vocabulary.from_json(content)
