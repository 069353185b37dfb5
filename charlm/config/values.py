"""Convert values passed from Python to plain types that settings accept."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm.errors import UsageError

MAX_SHOWN_CHARACTERS = 80  # characters of a wrong value


def to_plain(value: Any) -> Any:
    """Convert a path, a numpy or torch number or array, a device, or a subclass of a plain type to its plain value.

    2.0 stays a float and True a bool: each setting decides whether it accepts them.
    """
    if isinstance(value, os.PathLike):
        return to_plain(os.fspath(value))
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):  # numpy's str_ or an enum member, whose str() may differ
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(each) for each in value]
    if (type(value).__module__, type(value).__name__) == ("torch", "device"):
        return str(value)
    return value


def to_plain_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_plain(value) for name, value in values.items()}


def format_value(value: Any) -> str:
    """Format a wrong value for a message, on one line and shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an arbitrary object, or an integer of more than 4,300 digits
        text = type(value).__name__
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"


def check_type(value: Any, kind: type | tuple[type, ...], needed: str, place: str) -> Any:
    """Return the plain value. Raises ``UsageError``, naming ``place``, if it is not of that type."""
    plain_value = to_plain(value)
    is_wanted_bool = kind is bool or (isinstance(kind, tuple) and bool in kind)
    if not isinstance(plain_value, kind) or (isinstance(plain_value, bool) and not is_wanted_bool):
        raise UsageError(
            f"{place}: must be {needed} (got {format_value(value)}).", "See the documentation of charlm.api."
        )
    return plain_value


def check_path(value: Any, place: str) -> Path:
    return Path(check_type(value, str, "a path", place))
