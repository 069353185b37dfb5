"""Properties of a text that a unit may track: plain functions from a text to one value per character.

A property at a character describes the text up to and including it, so that a state after reading it can know it. Only
a speaker's name is known by the colon that follows.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OPENING_QUOTES = "“«"
CLOSING_QUOTES = "”»"
BRACKETS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}
SPEAKER = re.compile(r"^(?:\A|(?<=\n\n))[^\W\d_][^\n:]{0,40}(?=:\s*\n)", re.MULTILINE)

Values = NDArray[np.float64]  # (character,); of yes-or-no properties 0 and 1


@dataclass(frozen=True)
class Property:
    """``name`` completes "a unit that tracks …"; ``is_number``: it has more values than yes and no."""

    name: str
    is_number: bool
    compute: Callable[[str], Values]


def inside_quotes(text: str) -> Values:
    """From an opening quotation mark up to the closing one. A blank line ends a quotation that was never closed."""
    values, inside, previous = [], False, ""
    for character in text:
        if character == '"':
            inside = not inside
        elif character in OPENING_QUOTES:
            inside = True
        elif character in CLOSING_QUOTES or (character == previous == "\n"):
            inside = False
        values.append(inside)
        previous = character
    return np.array(values, dtype=np.float64)


def bracket_depth(text: str) -> Values:
    """How many brackets of any kind are open."""
    depth, values = 0, []
    for character in text:
        depth = max(0, depth + BRACKETS.get(character, 0))
        values.append(depth)
    return np.array(values, dtype=np.float64)


def inside_brackets(text: str) -> Values:
    return (bracket_depth(text) > 0).astype(np.float64)


def position_in_line(text: str) -> Values:
    """Characters since the last line end: 0 at a line end itself."""
    values, position = [], 0
    for character in text:
        position = 0 if character == "\n" else position + 1
        values.append(position)
    return np.array(values, dtype=np.float64)


def indentation(text: str) -> Values:
    """Spaces and tabs at the start of the line, as many as were read."""
    values, width, is_leading = [], 0, True
    for character in text:
        if character == "\n":
            width, is_leading = 0, True
        elif is_leading and character in " \t":
            width += 1
        else:
            is_leading = False
        values.append(width)
    return np.array(values, dtype=np.float64)


def in_speaker_name(text: str) -> Values:
    """In a play: the start of a text or paragraph, up to a colon that ends the line."""
    values = np.zeros(len(text))
    for match in SPEAKER.finditer(text):
        values[match.start() : match.end()] = 1
    return values


def _of_characters(is_true: Callable[[str], bool]) -> Callable[[str], Values]:
    def compute(text: str) -> Values:
        return np.array([is_true(character) for character in text], dtype=np.float64)

    return compute


PROPERTIES = (
    Property("inside quotes", False, inside_quotes),
    Property("inside brackets", False, inside_brackets),
    Property("bracket depth", True, bracket_depth),
    Property("position in line", True, position_in_line),
    Property("after a newline", False, _of_characters(lambda character: character == "\n")),
    Property("upper case", False, _of_characters(str.isupper)),
    Property("inside a word", False, _of_characters(str.isalpha)),
    Property("digit", False, _of_characters(str.isdigit)),
    Property("indentation", True, indentation),
    Property("in a speaker's name", False, in_speaker_name),
)


def text_for_properties(characters: Iterable[str], unit: str) -> str:
    """The text whose properties count. Of a byte-level model, bytes beyond ASCII count as lower-case letters."""
    if unit == "byte":
        return "".join(character if character.isascii() else "x" for character in characters)
    return "".join(characters)
