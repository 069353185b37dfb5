"""Text of a model on its way out: raw into a pipe, harmless on a terminal."""

import io
import sys
import unicodedata
from typing import TextIO

DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they turn around what comes after


class Output:
    """Writes text as it comes.

    An output whose encoding lacks a character gets a question mark for it. On a terminal, characters that would command
    it are shown escaped: controls but for tab and line ends, and those that turn the direction of writing.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.escapes = stream.isatty()
        self.carriage_return = False  # held until it is known whether it is part of a line end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def write(self, text: str) -> None:
        self.stream.write(self._harmless(text) if self.escapes else text)
        self.stream.flush()

    def _harmless(self, text: str) -> str:
        shown = []
        for character in text:
            if self.carriage_return and character != "\n":
                shown.append("\\r")
            self.carriage_return = character == "\r"
            if not self.carriage_return:
                shown.append(escaped(character))
        return "".join(shown)


def escaped(character: str) -> str:
    """A character, or how it is written in Python if a terminal would obey it."""
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    if is_control or unicodedata.bidirectional(character) in DIRECTIONS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def standard() -> Output:
    return Output(sys.stdout)
