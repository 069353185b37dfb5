"""Convert report types to JSON: the only place where fields become keys."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel


def to_json(value: Any, unit: str = "character") -> Any:
    """Convert a value for ``json.dumps``.

    The keys of a dataclass are the names of its fields, or the ``key`` in their metadata, with the ``unit`` of the
    model: byte in place of character. Fields whose default is ``None`` are omitted if they are ``None``.
    """
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value):
        return {
            (each.metadata.get("key") or each.name).replace("character", unit): to_json(getattr(value, each.name), unit)
            for each in fields(value)
            if each.default is not None or getattr(value, each.name) is not None
        }
    if isinstance(value, Mapping):
        return {name: to_json(part, unit) for name, part in value.items()}
    return [to_json(part, unit) for part in value] if isinstance(value, list | tuple) else value
