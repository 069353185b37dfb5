"""Characters ↔ ids: the characters of a text in the order of their code points, the first has id 0."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError, TextError, pluralize

CODE_POINTS = 0x110000
UNICODE_SCALARS = CODE_POINTS - 0x800  # the characters there are: code points without surrogates
SHORT_UNITS = {"character": "char", "byte": "byte"}  # where there is little room: in progress bars
UNKNOWN_PLACEHOLDER = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """What a model knows: characters, or with ``unit`` byte all 256 bytes, as the characters of their numbers.

    With ``has_unknown``, one more id, ``unknown_id``, stands for every other character: it is read and predicted, and
    never emitted. ``start_id`` is one past the last id that is predicted: the start symbol, which stands before every
    text and is never predicted.
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
        """The characters that occur at least ``min_count`` times, and an unknown symbol if that is not all."""
        known = [character for character, count in zip(characters, counts, strict=True) if count >= min_count]
        return cls(sorted(known), has_unknown=len(known) < len(characters))

    @classmethod
    def from_json(cls, content: Any) -> "Vocabulary":
        """Raises ``CheckpointError`` if the content is not that of a vocabulary."""
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
        """How many ids are predicted."""
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
        """What the unknown symbol leaves open: which of the other characters it is, all equally probable."""
        return math.log(UNICODE_SCALARS - len(self.characters))

    def __or__(self, other: "Vocabulary") -> "Vocabulary":
        """The characters of both."""
        assert self.unit == other.unit
        both = sorted({*self.characters, *other.characters})
        return Vocabulary(both, self.unit, self.has_unknown or other.has_unknown)

    def lookup_ids(self, characters: Sequence[str]) -> NDArray[np.int64]:
        """The id of each character: its own, the unknown one, or -1 where there is none."""
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
        """Ids ``(len(text),)``, or one for each byte of its UTF-8, in the smallest unsigned type that holds them.

        What becomes of characters that are not in the vocabulary: ``skip``, ``replace`` by the unknown symbol, or
        ``error``, which raises ``TextError`` that lists them; as does ``replace`` where there is no such symbol.
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
        """The text of ids; what is no UTF-8 among bytes, and the unknown symbol, as U+FFFD."""
        return self.to_bytes(ids).decode("utf-8", "replace" if self.unit == "byte" else "surrogatepass")

    def to_units(self, text: str) -> str:
        """A text in what the vocabulary is made of: its characters, or the characters of the bytes of its UTF-8."""
        return text.encode("utf-8", "surrogateescape").decode("latin-1") if self.unit == "byte" else text

    def to_bytes(self, ids: "NDArray[np.integer[Any]] | list[int]") -> bytes:
        """The bytes of a text: its own, or those of its UTF-8."""
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
    """``'é'``; or, where characters are bytes, ``0xE9`` for one that is not ASCII."""
    return f"0x{ord(character):02X}" if unit == "byte" and not character.isascii() else repr(character)


def describe_character(character: str) -> str:
    """A character that people can recognize, printable or not: ``'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)``."""
    name = unicodedata.name(character, "") or _control_name(character)
    return f"{character!r} (U+{ord(character):04X}{' ' * bool(name)}{name})"


def _control_name(character: str) -> str:
    """Controls have no name in Unicode's tables, but their pictures have: SYMBOL FOR BACKSPACE."""
    symbol = {"\x7f": "\u2421"}.get(character, chr(0x2400 + ord(character)) if character < " " else "")
    return unicodedata.name(symbol).removeprefix("SYMBOL FOR ") if symbol else ""


def to_code_points(text: str) -> NDArray[np.unsignedinteger[Any]]:
    """Of each character, in the smallest unsigned type that holds them all."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    pairs = text.encode("utf-16-le", "surrogatepass")
    if len(pairs) == 2 * len(text):
        return np.frombuffer(pairs, dtype="<u2")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
