"""Merge and check settings from flags, environment variables, presets and earlier runs."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from charlm import reading
from charlm.config.automatic import AUTO, AUTOMATIC_SETTINGS
from charlm.config.settings import ALLOWS_AUTO, STOP_LIMITS, Settings
from charlm.config.values import format_value, to_plain_dict
from charlm.errors import UsageError, did_you_mean

MAX_TOML_BYTES = 1 << 20
REQUIREMENTS = {  # the requirement on a value, by pydantic's error type
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


class SourceKind(Enum):
    """The kind of a source, which decides how its settings are named in messages."""

    COMMAND_LINE = auto()
    ENVIRONMENT = auto()  # the name of the source is the prefix of its variables
    FILE = auto()  # a preset, or the config.toml of a run
    CHECKPOINT = auto()
    INTERACTIVE = auto()
    PYTHON = auto()


@dataclass(frozen=True)
class SettingsSource:
    """Some settings and their source. ``name``: the file, folder or function, as shown in messages."""

    name: str
    values: Mapping[str, Any]
    kind: SourceKind = SourceKind.PYTHON

    @classmethod
    def command_line(cls, values: Mapping[str, Any]) -> "SettingsSource":
        return cls("", values, SourceKind.COMMAND_LINE)

    @classmethod
    def file(cls, path: Path) -> "SettingsSource":
        """Raises what :func:`read_toml` raises."""
        return cls(str(path), read_toml(path), SourceKind.FILE)

    def label(self, setting: str) -> str:
        """The name of a setting as the user wrote it."""
        option = setting.replace("_", "-")
        return {
            SourceKind.COMMAND_LINE: f"--{option}",
            SourceKind.INTERACTIVE: f":{option}",
            SourceKind.ENVIRONMENT: f"{self.name}{setting}".upper(),
        }.get(self.kind, f"{self.name}: {setting}")


def resolve(
    settings_class: type[AnySettings],
    sources: Iterable[SettingsSource],
    automatic: Mapping[str, Any] = MappingProxyType({}),
) -> AnySettings:
    """Settings of ``settings_class``: later sources override earlier ones, defaults fill the rest.

    A source that sets ``max_steps``, ``max_epochs`` or ``max_minutes`` discards such limits from earlier sources.
    ``automatic``: the numbers for settings that are ``auto``, where that is allowed. Raises ``UsageError`` that lists
    every problem with its source.
    """
    values, source_of = _merge(sources)
    values.update({name: automatic[name] for name in automatic if values.get(name) == AUTO})
    try:
        return settings_class(**values)
    except ValidationError as error:
        raise UsageError(
            _format_errors(settings_class, error, source_of), "See --help for the allowed values."
        ) from None


def find_automatic(sources: Iterable[SettingsSource]) -> list[str]:
    """The names of the settings that are ``auto`` and get a number once the text is known."""
    values, _ = _merge(sources)
    return [name for name, value in values.items() if value == AUTO and name in AUTOMATIC_SETTINGS]


def _merge(sources: Iterable[SettingsSource]) -> tuple[dict[str, Any], dict[str, SettingsSource]]:
    """The last value of each setting, and its source."""
    values: dict[str, Any] = {}
    source_of: dict[str, SettingsSource] = {}
    for source in sources:
        source_values = to_plain_dict(source.values)
        if any(source_values.get(name) for name in STOP_LIMITS):
            values.update(dict.fromkeys(STOP_LIMITS, 0))
        values.update(source_values)
        source_of.update(dict.fromkeys(source_values, source))
    return values, source_of


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
    return tomllib.loads(reading.read_file(path, MAX_TOML_BYTES).decode())


def to_toml(settings: Settings) -> str:
    """TOML is UTF-8, so a path that is not becomes a URI, which :data:`charlm.config.settings.FileName` reads."""
    return tomli_w.dumps({name: _as_uri(value) for name, value in settings.model_dump().items()})


def _as_uri(value: Any) -> Any:
    has_surrogates = isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
    return Path(value).absolute().as_uri() if has_surrogates else value


def _format_errors(
    settings_class: type[Settings], error: ValidationError, source_of: Mapping[str, SettingsSource]
) -> str:
    """One line per problem: its source, what is allowed, and the rejected value."""
    lines: dict[str, str] = {}
    requirements: dict[str, str] = {}
    for problem in error.errors():
        if not problem["loc"]:  # found by a validator of several settings
            lines[problem["msg"]] = _name_options(
                problem["msg"].removeprefix("Value error, "), settings_class, source_of
            )
            continue
        name = str(problem["loc"][0])
        label = source_of[name].label(name) if name in source_of else name
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{label}: unknown setting.{did_you_mean(name, settings_class.model_fields)}"
            continue
        requirement = _format_requirement(problem)
        if settings_class.model_fields[name].json_schema_extra == ALLOWS_AUTO:
            requirement += " or 'auto'"
        # A value that is neither the number nor the word that is allowed has two problems
        requirements[name] = f"{requirements[name]} or {requirement}" if name in requirements else requirement
        lines[name] = f"{label}: must be {requirements[name]} (got {format_value(problem['input'])})."
    return "\n".join(lines.values())


def _format_requirement(problem: ErrorDetails) -> str:
    template = REQUIREMENTS.get(problem["type"])
    if template is None:
        return problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    limits = problem.get("ctx", {})
    return template.format(**{name: f"{at:g}" if isinstance(at, float) else at for name, at in limits.items()})


def _name_options(lines: str, settings_class: type[Settings], source_of: Mapping[str, SettingsSource]) -> str:
    """Lines about several settings; those about one from the command line with the names of the options."""
    names = re.compile(rf"\b({'|'.join(settings_class.model_fields)})\b")
    options = SettingsSource.command_line({})
    given = {name for name, source in source_of.items() if source.kind is SourceKind.COMMAND_LINE}
    return "\n".join(
        names.sub(lambda found: options.label(found[0]), line) if given & set(names.findall(line)) else line
        for line in lines.splitlines()
    )
