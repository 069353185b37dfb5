"""Settings from where they are given: flags, environment variables, presets and earlier runs, checked together."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from charlm.config.settings import LENGTHS, Settings
from charlm.errors import UsageError, did_you_mean

COMMAND_LINE = "command line"

AnySettings = TypeVar("AnySettings", bound=Settings)
Layer = tuple[str, Mapping[str, Any]]  # where the values come from, as people are told; the values


def resolve(kind: type[AnySettings], layers: Iterable[Layer]) -> AnySettings:
    """Settings of ``kind`` from layers of values, later ones before earlier ones, defaults for the rest.

    A layer that sets one of the three lengths means that length: those of the layers below it end no run.
    Raises ``UsageError`` that lists every problem, each with the place it comes from.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        if any(layer.get(name) for name in LENGTHS):
            values.update(dict.fromkeys(LENGTHS, 0))
        for name, value in layer.items():
            values[name], origins[name] = value, origin
    try:
        return kind(**values)
    except ValidationError as error:
        raise UsageError(_problems(kind, error, origins), "See --help for the allowed values.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a flat TOML file. Raises ``UsageError`` if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.", "To name a preset, omit the folder and .toml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: invalid TOML: {error}.", "Write one `name = value` per line.") from None


def to_toml(settings: Settings) -> str:
    return tomli_w.dumps(settings.model_dump())


def _problems(kind: type[Settings], error: ValidationError, origins: Mapping[str, str]) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        if not problem["loc"]:  # found by a validator of several settings together
            lines[problem["msg"]] = problem["msg"].removeprefix("Value error, ")
            continue
        name = str(problem["loc"][0])
        origin = origins.get(name, "")
        place = f"{origin}: {name}"
        if origin == COMMAND_LINE:
            place = f"--{name.replace('_', '-')}"
        elif origin.endswith("_…"):  # a variable of the environment
            place = origin.replace("…", name.upper())
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{place}: unknown setting.{did_you_mean(name, kind.model_fields)}"
        elif name in lines:  # a number or a word, and it is neither: one line for both
            lines[name] = lines[name].removesuffix(".") + f" or {_plain(problem['msg']).removeprefix('must be ')}."
        else:
            lines[name] = f"{place} = {problem['input']!r}: {_plain(problem['msg'])}."
    return "\n".join(lines.values())


def _plain(message: str) -> str:
    return message.replace("Input should be", "must be").replace("a valid integer", "an integer")
