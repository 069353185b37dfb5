"""Escape text for terminals, and encode and decode typed escape sequences."""

import re
import unicodedata

BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # they turn around what comes after
ESCAPE_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}


def escape_control_characters(text: str) -> str:
    """Escape characters that could control a terminal.

    These are control characters except tab and newline, surrogates, and bidirectional controls.
    """
    return "".join(map(_escape, text.replace("\r\n", "\n")))


def _escape(character: str) -> str:
    """A character, or its Python escape sequence if it could control a terminal."""
    is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    if is_control or unicodedata.bidirectional(character) in BIDI_CONTROLS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def decode_escapes(text: str) -> str:
    """Decode the escape sequences ``\\n``, ``\\r``, ``\\t``, ``\\0`` and ``\\\\``."""
    return re.sub(r"\\([nrt0\\])", lambda found: ESCAPE_LETTERS[found[1]], text)


def encode_escapes(text: str) -> str:
    """The inverse of :func:`decode_escapes`."""
    letters = {character: letter for letter, character in ESCAPE_LETTERS.items()}
    return "".join(f"\\{letters[character]}" if character in letters else character for character in text)
