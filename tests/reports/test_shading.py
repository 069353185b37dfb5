"""A text on a terminal, shaded by one unit."""

import re

import numpy as np
import pytest

from charlm.reports.shading import Colors, choose_colors, describe_signal, shade_text

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(
    ("is_terminal", "environment", "expected"),
    [
        (True, {}, Colors.INDEXED),
        (True, {"COLORTERM": "truecolor"}, Colors.TRUECOLOR),
        (True, {"COLORTERM": "24bit"}, Colors.TRUECOLOR),
        (True, {"COLORTERM": "truecolor", "NO_COLOR": "1"}, Colors.NONE),
        (True, {"NO_COLOR": ""}, Colors.INDEXED),
        (True, {"TERM": "dumb"}, Colors.NONE),
        (False, {"COLORTERM": "truecolor"}, Colors.NONE),
    ],
)
def test_colors_are_those_that_the_terminal_has(
    is_terminal: bool, environment: dict[str, str], expected: Colors
) -> None:
    assert choose_colors(is_terminal, environment) is expected


@pytest.mark.parametrize("colors", [Colors.INDEXED, Colors.TRUECOLOR])
def test_without_its_colors_it_is_the_text(colors: Colors) -> None:
    text = "To be,\nor \x1b not\t!\n"
    shaded = shade_text(list(text), np.linspace(-1, 1, len(text)), False, colors)
    assert ESCAPE.sub("", shaded).replace("↵", "") == text.replace("\x1b", "␛") + "\n"
    assert shaded.rstrip("\n").endswith("\x1b[0m")
    for line in shaded.splitlines():  # no color runs on to the right margin
        last = ESCAPE.findall(line)[-1:]
        assert last in ([], ["\x1b[0m"])


def test_stronger_values_have_stronger_colors_and_signs_have_their_own() -> None:
    def color(value: float, is_gate: bool = False) -> tuple[int, ...]:
        found = re.search(r"48;2;(\d+);(\d+);(\d+)m", shade_text(["x"], np.array([value]), is_gate, Colors.TRUECOLOR))
        return tuple(map(int, found.groups())) if found else (255, 255, 255)

    assert color(0) == (255, 255, 255)
    assert color(1)[2] < color(0.5)[2] < 255  # orange: little blue
    assert color(-1)[0] < color(-0.5)[0] < 255  # blue: little red
    assert color(1, is_gate=True)[0] < color(0.3, is_gate=True)[0]


def test_without_colors_there_is_a_digit_below_each_character() -> None:
    shown = shade_text(list("ab\nc漢"), np.array([0, 0.5, 1, 0.29, 0.99]), True, Colors.NONE)
    assert shown.splitlines() == ["ab↵", "059", "c漢", "29 "]
    signed = shade_text(list("abc"), np.array([-1, 0, 1]), False, Colors.NONE)
    assert signed.splitlines() == ["abc", "059"]


def test_long_lines_are_folded_with_their_digits() -> None:
    lines = shade_text(["x"] * 25, np.zeros(25), True, Colors.NONE, columns=10).splitlines()
    assert [len(line) for line in lines] == [10, 10, 10, 10, 5, 5]


def test_cell_states_are_in_their_own_scale_and_the_heading_says_it() -> None:
    heading, fractions, is_gate = describe_signal(2, 17, "cell", np.array([-4, 2], np.float32), Colors.NONE)
    assert "layer 2, unit 17, cell state" in heading
    assert "-4" in heading
    assert fractions.tolist() == [-1, 0.5]
    assert not is_gate
    assert describe_signal(1, 1, "forget", np.array([0.5], np.float32), Colors.INDEXED)[2]
