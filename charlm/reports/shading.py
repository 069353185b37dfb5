"""A text on a terminal, shaded by one signal of one unit; and the same in plain characters."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from charlm.reports.page import show_character

POSITIVE, NEGATIVE, GATE = (240, 132, 44), (92, 150, 246), (34, 172, 138)  # as on the page
WHITE = (255, 255, 255)
FAINTEST = 0.05  # below this, a character is not shaded
CUBE = (0, 95, 135, 175, 215, 255)  # the levels of each color among the 256 of terminals

Fractions = NDArray[np.floating]  # (character,): from 0 to 1 of a gate, from -1 to 1 of others
Color = tuple[int, int, int]


class Colors(Enum):
    NONE = "none"
    INDEXED = "256"
    TRUECOLOR = "truecolor"


def choose_colors(is_terminal: bool, environment: Mapping[str, str]) -> Colors:
    """What the output can show. ``NO_COLOR``, if not empty, says that it should show none."""
    if not is_terminal or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return Colors.NONE
    is_truecolor = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    return Colors.TRUECOLOR if is_truecolor else Colors.INDEXED


def describe_signal(
    layer: int, unit: int, name: str, values: NDArray[np.float32], colors: Colors
) -> tuple[str, Fractions, bool]:
    """A heading, the values as fractions of the largest one that is possible (of a cell state: that occurs), and
    whether it is a gate.
    """
    is_gate = name not in ("candidate", "cell", "hidden")
    scale = max(1e-9, float(np.abs(values).max())) if name == "cell" else 1.0
    low = 0.0 if is_gate else -scale
    if colors is Colors.NONE:
        key = f"0: {low:.4g} … 9: {scale:.4g}"
    elif is_gate:
        key = "white: 0 (closed) … green: 1 (open)"
    else:
        key = f"blue: {low:.4g} … orange: {scale:.4g}"
    kind = " gate" * is_gate + " state" * (name in ("cell", "hidden"))
    return f"layer {layer}, unit {unit}, {name}{kind}  [{key}]", values / scale, is_gate


def shade_text(
    characters: Sequence[str], fractions: Fractions, is_gate: bool, colors: Colors, columns: int = 80
) -> str:
    """The text, as dark as its values are large; without colors, with a digit below each character: 0 is the lowest."""
    shown = [show_character(character) for character in characters]
    if colors is Colors.NONE:
        return "".join(_lines_with_digits(shown, fractions, is_gate, columns))
    return "".join(_shaded(shown, fractions, is_gate, colors)) + "\x1b[0m\n"


def _shaded(shown: Sequence[str], fractions: Fractions, is_gate: bool, colors: Colors) -> Iterator[str]:
    """Each character after the escape sequence of its color, where that is a new one. Line ends have none."""
    last = ""
    for character, fraction in zip(shown, fractions.tolist(), strict=True):
        code = _escape(fraction, is_gate, colors)
        if character == "\n":
            yield f"{code}↵\x1b[0m\n" if code else ("\x1b[0m\n" if last else "\n")
            last = ""
            continue
        if code != last:
            yield code or "\x1b[0m"
            last = code
        yield character


def _escape(fraction: float, is_gate: bool, colors: Colors) -> str:
    strength = min(1.0, abs(fraction))
    if strength < FAINTEST:
        return ""
    hue = GATE if is_gate else POSITIVE if fraction > 0 else NEGATIVE
    red, green, blue = (round(white + (full - white) * strength) for white, full in zip(WHITE, hue, strict=True))
    if colors is Colors.TRUECOLOR:
        return f"\x1b[38;2;0;0;0;48;2;{red};{green};{blue}m"
    nearest = [min(range(6), key=lambda level: abs(CUBE[level] - part)) for part in (red, green, blue)]
    return f"\x1b[38;5;16;48;5;{16 + 36 * nearest[0] + 6 * nearest[1] + nearest[2]}m"


def _lines_with_digits(shown: Sequence[str], fractions: Fractions, is_gate: bool, columns: int) -> Iterator[str]:
    low = 0.0 if is_gate else -1.0
    digits = np.clip((fractions - low) / (1 - low) * 10, 0, 9).astype(int).tolist()
    text, below = "", ""
    for character, digit in zip(shown, digits, strict=True):
        is_end = character == "\n"
        character = "↵" if is_end else "→" if character == "\t" else character
        text += character
        below += str(digit) + " " * (unicodedata.east_asian_width(character) in "WF")
        if is_end or len(below) >= columns:
            yield f"{text}\n{below}\n"
            text, below = "", ""
    if text:
        yield f"{text}\n{below}\n"
