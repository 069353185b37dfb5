"""The properties of a text that units may track, on texts where anybody sees what is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.inspection.properties import PROPERTIES, text_for_properties

BY_NAME = {each.name: each for each in PROPERTIES}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", 'a "bc" d', "00111000"),
        ("inside quotes", "a “b” c", "0011000"),
        ("inside quotes", '"a\n\nb', "11100"),
        ("inside brackets", "a(b[c]d)e", "011111100"),
        ("bracket depth", "a(b[c]d)e", "011221100"),
        ("bracket depth", ")(a", "011"),
        ("position in line", "ab\ncd", "12012"),
        ("after a newline", "a\n\nb", "0110"),
        ("upper case", "aBÄ1", "0110"),
        ("inside a word", "ab, é", "11001"),
        ("digit", "a1b", "010"),
        ("indentation", "  a b\n c", "12222011"),
        ("in a speaker's name", "ROMEO:\nO! I: say\n\nFirst Lord:\nNo", "11111" + "0" * 13 + "1" * 10 + "0" * 4),
    ],
)
def test_each_property_is_what_its_name_says(name: str, text: str, expected: str) -> None:
    values = BY_NAME[name].compute(text)
    assert "".join(str(int(value)) for value in values) == expected


@pytest.mark.parametrize("name", BY_NAME)
@given(text=st.text())
def test_there_is_a_value_for_each_character_of_any_text(name: str, text: str) -> None:
    values = BY_NAME[name].compute(text)
    assert values.shape == (len(text),)
    assert np.isfinite(values).all()
    assert BY_NAME[name].is_number or set(values) <= {0, 1}


def test_bytes_beyond_ascii_count_as_letters() -> None:
    text = text_for_properties("é!".encode().decode("latin-1"), "byte")
    assert BY_NAME["inside a word"].compute(text).tolist() == [1, 1, 0]
    assert text_for_properties(["é", "!"], "character") == "é!"
