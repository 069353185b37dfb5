"""Settings from where they are given: flags, environment variables, presets and earlier runs, checked together."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from charlm import reading
from charlm.config.settings import LENGTHS, Settings
from charlm.config.values import plain_all, shown
from charlm.errors import UsageError, did_you_mean

COMMAND_LINE, INTERACTIVE = "command line", "interactive"
PREFIXES = {COMMAND_LINE: "--", INTERACTIVE: ":"}  # of the names under which people give settings there
TOML_AT_MOST_BYTES = 1 << 20
NEEDS = {  # what a value must be, by pydantic's type of error
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list of texts",
}

AnySettings = TypeVar("AnySettings", bound=Settings)
Layer = tuple[str, Mapping[str, Any]]  # where the values come from, as people are told; the values


def resolve(kind: type[AnySettings], layers: Iterable[Layer]) -> AnySettings:
    """Settings of ``kind`` from layers of values: later layers override earlier ones, defaults fill the rest.

    A layer that sets one of the three limits replaces all three: the limits of earlier layers end no run.
    Raises ``UsageError`` that lists every problem with its source.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, given in layers:
        layer = plain_all(given)
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
        return parse_toml(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.", "To name a preset, omit the folder and .toml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: invalid TOML: {error}.", "Write one `name = value` per line.") from None


def parse_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file. Raises ``OSError`` or ``ValueError``."""
    return tomllib.loads(reading.read_file(path, TOML_AT_MOST_BYTES).decode())


def to_toml(settings: Settings) -> str:
    """TOML is UTF-8, so a path that is not becomes a URI, which :data:`charlm.config.settings.FileName` reads."""
    return tomli_w.dumps({name: _as_uri(value) for name, value in settings.model_dump().items()})


def _as_uri(value: Any) -> Any:
    has_surrogates = isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
    return Path(value).absolute().as_uri() if has_surrogates else value


def _problems(kind: type[Settings], error: ValidationError, origins: Mapping[str, str]) -> str:
    """A line for every problem: where it comes from, what is allowed, and the value that is not."""
    lines: dict[str, str] = {}
    needs: dict[str, str] = {}
    for problem in error.errors():
        if not problem["loc"]:  # found by a validator of several settings together
            lines[problem["msg"]] = _as_options(problem["msg"].removeprefix("Value error, "), kind, origins)
            continue
        name = str(problem["loc"][0])
        place = _place(name, origins.get(name, ""))
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{place}: unknown setting.{did_you_mean(name, kind.model_fields)}"
            continue
        need = _need(problem)
        needs[name] = f"{needs[name]} or {need}" if name in needs else need  # a number or a word, and it is neither
        lines[name] = f"{place}: must be {needs[name]} (got {shown(problem['input'])})."
    return "\n".join(lines.values())


def _place(name: str, origin: str) -> str:
    if origin in PREFIXES:
        return PREFIXES[origin] + name.replace("_", "-")
    if origin.endswith("_…"):  # a variable of the environment
        return origin.replace("…", name.upper())
    return f"{origin}: {name}"


def _need(problem: ErrorDetails) -> str:
    template = NEEDS.get(problem["type"])
    if template is None:
        return problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    limits = problem.get("ctx", {})
    return template.format(**{name: f"{at:g}" if isinstance(at, float) else at for name, at in limits.items()})


def _as_options(lines: str, kind: type[Settings], origins: Mapping[str, str]) -> str:
    """Lines about several settings; those about one from the command line with the names of the options."""
    names = re.compile(rf"\b({'|'.join(kind.model_fields)})\b")
    return "\n".join(
        names.sub(lambda found: _place(found[0], COMMAND_LINE), line)
        if any(origins.get(name) == COMMAND_LINE for name in names.findall(line))
        else line
        for line in lines.splitlines()
    )
