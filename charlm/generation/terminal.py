"""Text that does a terminal no harm, and text as people write it on a line."""

import re
import unicodedata

DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they turn around what comes after
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def harmless(text: str) -> str:
    """A text in which characters are escaped that would command a terminal.

    These are controls but for tab and line ends, and those that turn the direction of writing.
    """
    return "".join(map(_escaped, text.replace("\r\n", "\n")))


def _escaped(character: str) -> str:
    """A character, or how it is written in Python if a terminal would obey it."""
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    if is_control or unicodedata.bidirectional(character) in DIRECTIONS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def unescaped(text: str) -> str:
    """What is meant where ``\\n``, ``\\r``, ``\\t``, ``\\0`` and ``\\\\`` stand for what is hard to write on a line."""
    return re.sub(r"\\([nrt0\\])", lambda found: ESCAPES[found[1]], text)


def backslashed(text: str) -> str:
    """A text as :func:`unescaped` reads it."""
    letters = {character: letter for letter, character in ESCAPES.items()}
    return "".join(f"\\{letters[character]}" if character in letters else character for character in text)
