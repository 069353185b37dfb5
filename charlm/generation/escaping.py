"""Text that does a terminal no harm, and text as people write it on a line."""

import re
import unicodedata

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they turn around what comes after
ESCAPE_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def escape_control_characters(text: str) -> str:
    """A text in which characters are escaped that would command a terminal.

    These are controls but for tab and line ends, and those that turn the direction of writing.
    """
    return "".join(map(_escape, text.replace("\r\n", "\n")))


def _escape(character: str) -> str:
    """A character, or how it is written in Python if a terminal would obey it."""
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    if is_control or unicodedata.bidirectional(character) in BIDI_CONTROLS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def decode_escapes(text: str) -> str:
    """What is meant where ``\\n``, ``\\r``, ``\\t``, ``\\0`` and ``\\\\`` stand for what is hard to write on a line."""
    return re.sub(r"\\([nrt0\\])", lambda found: ESCAPE_LETTERS[found[1]], text)


def encode_escapes(text: str) -> str:
    """A text as :func:`decode_escapes` reads it."""
    letters = {character: letter for letter, character in ESCAPE_LETTERS.items()}
    return "".join(f"\\{letters[character]}" if character in letters else character for character in text)
