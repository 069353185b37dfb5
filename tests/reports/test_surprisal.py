"""The page of a text's surprisals: what it holds is what was computed, and no character does harm."""

import base64
import html
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.reports import surprisal
from charlm.reports.surprisal import write_html


def page_of(text: str, bits: list[float] | None = None, ranks: list[int] | None = None, title: str = "play") -> str:
    alphabet = sorted(set(text))
    file = io.BytesIO()
    ids = np.array([alphabet.index(character) for character in text])
    costs = np.array(bits or [1.0] * len(text))
    write_html(file, title, "character", ids, alphabet, -costs * np.log(2), np.array(ranks or [1] * len(text)))
    return file.getvalue().decode()


def blocks_of(page: str) -> list[tuple[str, bytes]]:
    """The text of each block, as it is shown, and its scores."""
    found = re.findall(r'<div data-scores="([^"]*)">([^<]*)</div>', page)
    return [(html.unescape(text), base64.b64decode(scores)) for scores, text in found]


def displayed(page: str) -> str:
    return "".join(text for text, _ in blocks_of(page))


def test_page_contains_text_with_bits_and_ranks() -> None:
    page = page_of("To be", [0.0, 1.234, 12.3456, 40.95, 99.0], [1, 2, 65, 4095, 70000])
    ((text, scores),) = blocks_of(page)
    assert text == "To be"
    numbers = [int.from_bytes(scores[place : place + 3]) for place in range(0, 15, 3)]
    assert [number >> 12 for number in numbers] == [0, 123, 1235, 4095, 4095]
    assert [number & 4095 for number in numbers] == [1, 2, 65, 4095, 4095]
    assert "5 characters, 30.7059 bits per character" in page


@given(st.text(min_size=1))
def test_each_character_is_shown_as_one_safe_character(text: str) -> None:
    assert "\r" not in displayed(page_of(text))
    blocks = blocks_of(page_of(text))
    assert sum(len(part) for part, _ in blocks) == len(text)
    assert all(3 * len(part) == len(scores) for part, scores in blocks)


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("\r", "␍"),
        ("\0", "␀"),
        ("\x1b", "␛"),
        ("\x7f", "␡"),
        ("\x85", "\ufffd"),
        ("\u202e", "\ufffd"),  # turns the direction of what follows
        ("\u2066", "\ufffd"),
        ("\u200b", "\ufffd"),
        ("\u2028", "\ufffd"),
        ("\ud800", "\ufffd"),
        ("\uffff", "\ufffd"),
        ("\t", "\t"),
        ("\n", "\n"),
        ("é", "é"),
        ("😀", "😀"),
    ],
)
def test_undisplayable_characters_are_replaced(character: str, expected: str) -> None:
    assert displayed(page_of(f"a{character}b")) == f"a{expected}b"


def test_markup_is_escaped() -> None:
    text = "</div><script>alert('&amp;')</script>"
    page = page_of(text, title=text)
    assert displayed(page) == text
    assert page.count("<script>") == 1
    assert "<title>&lt;/div&gt;" in page


def test_long_text_is_split_into_blocks_at_line_ends() -> None:
    lines = "To be, or not to be: that is the question.\n" * 500
    blocks = blocks_of(page_of(lines))
    assert len(blocks) == pytest.approx(len(lines) / surprisal.BLOCK, abs=1)
    assert all(text.endswith("\n") for text, _ in blocks)
    assert "".join(text for text, _ in blocks) == lines
    without = "x" * 9001
    assert displayed(page_of(without)) == without
    assert max(len(text) for text, _ in blocks_of(page_of(without))) <= 2 * surprisal.BLOCK


def test_page_of_one_megabyte_is_below_six() -> None:
    assert len(page_of("To be, or not to be.\n" * 50_000)) < 6e6


def test_page_needs_no_network() -> None:
    page = page_of("To be")
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page
    assert "url(" not in page
