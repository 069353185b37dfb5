"""Characters ↔ ids: the characters of a text in the order of their code points, the first has id 0."""

import unicodedata
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError, TextError

CODE_POINTS = 0x110000


class Vocabulary:
    """The characters that a model knows.

    ``start_id`` is one past the last character: the id of the start symbol, which stands before every text and is
    never predicted.
    """

    def __init__(self, characters: list[str]) -> None:
        self.characters = characters

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        seen = np.zeros(CODE_POINTS, dtype=bool)
        seen[_code_points(text)] = True
        return cls([chr(code_point) for code_point in np.flatnonzero(seen)])

    @classmethod
    def from_json(cls, content: Any) -> "Vocabulary":
        """Raises ``CheckpointError`` if the content is not that of a vocabulary."""
        characters = content.get("characters") if isinstance(content, dict) else None
        if not isinstance(characters, list) or not all(isinstance(c, str) and len(c) == 1 for c in characters):
            raise CheckpointError("vocabulary.json: not a list of characters.")
        if not characters or sorted(set(characters)) != characters:
            raise CheckpointError("vocabulary.json: the characters are not distinct and in order.")
        return cls(characters)

    def to_json(self) -> dict[str, Any]:
        return {"unit": "character", "characters": self.characters, "unknown": None}

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.characters == other.characters

    @property
    def start_id(self) -> int:
        return len(self.characters)

    @cached_property
    def _id_of_code_point(self) -> NDArray[np.int32]:
        table = np.full(CODE_POINTS, -1, dtype=np.int32)
        table[[ord(character) for character in self.characters]] = np.arange(len(self))
        return table

    def encode(self, text: str) -> NDArray[np.integer[Any]]:
        """Ids ``(len(text),)`` in the smallest unsigned type that holds them.

        Raises ``TextError`` that lists the characters that are not in the vocabulary.
        """
        ids = self._id_of_code_point[_code_points(text)]
        if ids.size and ids.min() < 0:
            unknown = sorted({text[int(position)] for position in np.flatnonzero(ids < 0)})
            raise TextError(
                f"{len(unknown)} character{'s' * (len(unknown) > 1)} that the model does not know: "
                + ", ".join(describe(character) for character in unknown[:10])
                + (", …" if len(unknown) > 10 else "."),
                "It can only read and write characters of the text it was trained on; charlm info lists them.",
            )
        return ids.astype(np.min_scalar_type(len(self) - 1))

    def decode(self, ids: "NDArray[np.integer[Any]] | list[int]") -> str:
        return "".join(self.characters[id_] for id_ in ids)


def describe(character: str) -> str:
    """A character as people can recognise it, printable or not: ``'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)``."""
    name = unicodedata.name(character, "") or _control_name(character)
    return f"{character!r} (U+{ord(character):04X}{' ' * bool(name)}{name})"


def _control_name(character: str) -> str:
    """Controls have no name in Unicode's tables, but their pictures have: SYMBOL FOR BACKSPACE."""
    picture = {"\x7f": "\u2421"}.get(character, chr(0x2400 + ord(character)) if character < " " else "")
    return unicodedata.name(picture).removeprefix("SYMBOL FOR ") if picture else ""


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
