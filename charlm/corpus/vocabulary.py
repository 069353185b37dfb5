"""Vocabularies: characters ↔ ids. Characters are sorted by code point; the first has id 0."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError, TextError, pluralize

CODE_POINTS = 0x110000
UNICODE_SCALARS = CODE_POINTS - 0x800  # code points without surrogates
SHORT_UNITS = {"character": "char", "byte": "byte"}  # for progress bars
UNKNOWN_PLACEHOLDER = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """The characters of a model, or with ``unit`` byte all 256 bytes, as characters of the same value.

    With ``has_unknown``, one more id, ``unknown_id``, stands for every other character; it is read and predicted, but
    never generated. ``start_id``, one past the last predicted id, is the start token (BOS), which precedes every text
    and is never predicted.
    """

    def __init__(self, characters: list[str], unit: str = "character", has_unknown: bool = False) -> None:
        self.characters = characters
        self.unit = unit
        self.has_unknown = has_unknown

    @classmethod
    def from_text(cls, text: str) -> "Vocabulary":
        return cls(sorted(set(text)))

    @classmethod
    def for_bytes(cls) -> "Vocabulary":
        return cls([chr(byte) for byte in range(256)], "byte")

    @classmethod
    def from_counts(cls, characters: Sequence[str], counts: Iterable[int], min_count: int) -> "Vocabulary":
        """The characters that occur at least ``min_count`` times, and an unknown token if some do not."""
        known = [character for character, count in zip(characters, counts, strict=True) if count >= min_count]
        return cls(sorted(known), has_unknown=len(known) < len(characters))

    @classmethod
    def from_json(cls, content: Any) -> "Vocabulary":
        """Raises ``CheckpointError`` if the content is not a valid vocabulary."""
        characters = content.get("characters") if isinstance(content, dict) else None
        if not isinstance(characters, list) or not all(isinstance(c, str) and len(c) == 1 for c in characters):
            raise CheckpointError("vocabulary.json: not a list of characters.")
        if not characters or sorted(set(characters)) != characters:
            raise CheckpointError("vocabulary.json: characters are not unique and sorted.")
        if missing := [name for name in ("unit", "unknown_id") if name not in content]:
            raise CheckpointError(f"vocabulary.json: {' and '.join(missing)} missing.")
        unit, unknown_id = content["unit"], content["unknown_id"]
        if unit not in ("character", "byte") or unknown_id is True or unknown_id not in (None, len(characters)):
            raise CheckpointError("vocabulary.json: invalid unit or unknown_id.")
        if unit == "byte" and (unknown_id is not None or characters != cls.for_bytes().characters):
            raise CheckpointError("vocabulary.json: a byte vocabulary must list all 256 bytes.")
        return cls(characters, unit, unknown_id is not None)

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "characters": self.characters, "unknown_id": self.unknown_id}

    def __len__(self) -> int:
        """The number of predicted ids."""
        return len(self.characters) + self.has_unknown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    @property
    def unknown_id(self) -> int | None:
        return len(self.characters) if self.has_unknown else None

    @property
    def start_id(self) -> int:
        return len(self)

    @property
    def unknown_penalty_nats(self) -> float:
        """The cost of identifying the character behind an unknown token, if all remaining characters are equally
        likely.
        """
        return math.log(UNICODE_SCALARS - len(self.characters))

    def __or__(self, other: "Vocabulary") -> "Vocabulary":
        """The characters of both."""
        assert self.unit == other.unit
        both = sorted({*self.characters, *other.characters})
        return Vocabulary(both, self.unit, self.has_unknown or other.has_unknown)

    def lookup_ids(self, characters: Sequence[str]) -> NDArray[np.int64]:
        """The id of each character: its own, or ``unknown_id``, or -1 without an unknown token."""
        ids = self._id_of_code_point[to_code_points("".join(characters))].astype(np.int64)
        return ids if self.unknown_id is None else np.where(ids < 0, self.unknown_id, ids)

    @cached_property
    def _id_of_code_point(self) -> NDArray[np.int32]:
        table = np.full(CODE_POINTS, -1, dtype=np.int32)
        table[to_code_points("".join(self.characters))] = np.arange(len(self.characters))
        return table

    @cached_property
    def _code_point_of_id(self) -> NDArray[np.uint32]:
        return to_code_points("".join(self.characters) + UNKNOWN_PLACEHOLDER).astype("<u4")

    def encode(self, text: str, unknown: str = "error") -> NDArray[np.integer[Any]]:
        """Ids ``(len(text),)``, or one per byte of its UTF-8, in the smallest unsigned type that fits.

        ``unknown``: how to handle characters outside the vocabulary: ``skip`` them, ``replace`` them by the unknown
        token, or raise a ``TextError`` that lists them (``error``, or ``replace`` without an unknown token).
        """
        ids = self._id_of_code_point[to_code_points(self.to_units(text))]
        if unknown == "skip":
            ids = ids[ids >= 0]
        elif unknown == "replace" and self.unknown_id is not None:
            ids = np.where(ids < 0, self.unknown_id, ids)
        if ids.size and ids.min() < 0:
            raise unknown_characters_error(sorted({text[int(position)] for position in np.flatnonzero(ids < 0)}))
        in_smallest: NDArray[np.integer[Any]] = ids.astype(np.min_scalar_type(max(0, len(self) - 1)))
        return in_smallest

    def decode(self, ids: "NDArray[np.integer[Any]] | list[int]") -> str:
        """The text of ids; invalid UTF-8 and unknown tokens become U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", "replace" if self.unit == "byte" else "surrogatepass")

    def to_units(self, text: str) -> str:
        """A text in units of the vocabulary: unchanged, or one character per byte of its UTF-8."""
        return text.encode("utf-8", "surrogateescape").decode("latin-1") if self.unit == "byte" else text

    def to_bytes(self, ids: "NDArray[np.integer[Any]] | list[int]") -> bytes:
        """The bytes of ids: raw bytes, or the UTF-8 of their text."""
        shown = self._code_point_of_id[np.asarray(ids, dtype=np.int64)]
        text = shown.tobytes().decode("utf-32-le", "surrogatepass")
        return text.encode("latin-1") if self.unit == "byte" else text.encode("utf-8", "surrogatepass")


def unknown_characters_error(unknown: list[str]) -> TextError:
    return TextError(
        f"{pluralize(len(unknown), 'character')} not in the model's vocabulary: "
        + ", ".join(describe_character(character) for character in unknown[:10])
        + (", …" if len(unknown) > 10 else "."),
        "A model only knows the characters of its training text; charlm info lists them.",
    )


def format_character(character: str, unit: str) -> str:
    """``'é'``, or with ``unit`` byte ``0xE9`` for a non-ASCII byte."""
    return f"0x{ord(character):02X}" if unit == "byte" and not character.isascii() else repr(character)


def describe_character(character: str) -> str:
    """Describe a character, printable or not: ``'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)``."""
    name = unicodedata.name(character, "") or _control_name(character)
    return f"{character!r} (U+{ord(character):04X}{' ' * bool(name)}{name})"


def _control_name(character: str) -> str:
    """Control characters have no Unicode name, but their symbols do: SYMBOL FOR BACKSPACE."""
    symbol = {"\x7f": "\u2421"}.get(character, chr(0x2400 + ord(character)) if character < " " else "")
    return unicodedata.name(symbol).removeprefix("SYMBOL FOR ") if symbol else ""


def to_code_points(text: str) -> NDArray[np.unsignedinteger[Any]]:
    """The code point of each character, in the smallest unsigned type that fits."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    pairs = text.encode("utf-16-le", "surrogatepass")
    if len(pairs) == 2 * len(text):
        return np.frombuffer(pairs, dtype="<u2")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
