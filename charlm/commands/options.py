"""Convert settings to click options, and the environment and command line back to settings."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from charlm.commands import completion
from charlm.commands.layout import argument, option
from charlm.config import ALLOWS_AUTO, ALLOWS_ESCAPES, MAX_THREADS, DeviceSettings, Settings, SettingsSource, SourceKind
from charlm.generation.escaping import decode_escapes, encode_escapes

COMPLETERS = {"device": completion.words(*completion.DEVICES), "init_from": completion.runs}  # of settings
MOST = 2**62  # of what is counted; numpy and torch compute with it
NO_BREAK = "\N{NO-BREAK SPACE}"  # keeps a sign and its number on one line of help

Function = TypeVar("Function", bound=Callable[..., Any])
if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # with click 8.2 it is not generic


class EscapedText(ParamType):
    """Text with the escapes ``\\n``, ``\\r``, ``\\t``, ``\\0`` and ``\\\\`` for characters that are hard to type in a
    shell.
    """

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return decode_escapes(value)


class FilePath(click.Path):
    """A path. One that is empty means the working folder to the system, and a forgotten variable to people."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("must not be empty.", param, ctx)
        return super().convert(value, param, ctx)


class TextName(ParamType):
    """A file, a folder, a pattern or the name of a corpus."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("must not be empty.", param, ctx)
        return value


class NumberOrWord(ParamType):
    """A number, or one of a few words, such as auto."""

    def __init__(self, number: type[int] | type[float], words: tuple[str, ...]) -> None:
        self.number = number
        self.words = words
        self.name = "integer" if number is int else "float"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join([self.name.upper(), *self.words])

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> completion.Items:
        return completion.words(*self.words)(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        try:
            return self.number(value)
        except ValueError:
            kind = "an integer" if self.number is int else "a number"
            self.fail(f"{value!r} is not {kind} or {' or '.join(map(repr, self.words))}.", param, ctx)


class Integer(ParamType):
    """An integer within limits."""

    name = "integer"

    def __init__(self, minimum: int, maximum: int = MOST) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = click.INT.convert(value, param, ctx)
        if number < self.minimum:
            self.fail(f"must be at least {self.minimum} (got {number}).", param, ctx)
        if number > self.maximum:
            self.fail(f"must be at most {self.maximum} (got {number}).", param, ctx)
        return number


def settings_options(sections: Mapping[str, type[Settings]]) -> Callable[[Function], Function]:
    """An option for each setting of each section. They have no defaults: a missing option is ``None``."""

    def decorate(function: Function) -> Function:
        for title, settings_class in reversed(list(sections.items())):
            for name, setting in reversed(list(_declared_settings(settings_class).items())):
                flag = "--" + name.replace("_", "-")
                parameter_type = _click_type(setting)
                if parameter_type is click.BOOL:
                    flag = f"{flag}/--no-{flag[2:]}"
                decorate_with_option = option(
                    flag,
                    name,
                    type=parameter_type,
                    multiple=get_origin(setting.annotation) is tuple,
                    default=None,
                    help=_format_help(setting),
                    section=title,
                    shell_complete=COMPLETERS.get(name),
                )
                function = decorate_with_option(function)
        return function

    return decorate


def collect_sources(context: click.Context, settings_class: type[Settings]) -> list[SettingsSource]:
    """The settings from the environment and the command line, in this order."""
    prefix = f"{context.auto_envvar_prefix}_"
    origins = (
        (SourceKind.ENVIRONMENT, ParameterSource.ENVIRONMENT),
        (SourceKind.COMMAND_LINE, ParameterSource.COMMANDLINE),
    )
    return [
        SettingsSource(
            prefix,
            {
                name: value
                for name, value in context.params.items()
                if name in settings_class.model_fields and context.get_parameter_source(name) is parameter_source
            },
            source_kind,
        )
        for source_kind, parameter_source in origins
    ]


def integer_option(
    flag: str, minimum: int, description: str, default: int | None = None, **options: Any
) -> Callable[[Function], Function]:
    """An option for an integer of at least ``minimum``; its help ends with default and range, like that of a
    setting.
    """
    facts = ([] if default is None else [f"default: {default}"]) + [f"≥{NO_BREAK}{minimum}"]
    text = f"{description}  [{'; '.join(facts)}]"
    return option(flag, type=Integer(minimum), default=default, help=text, **options)


def common_options(function: Function) -> Function:
    """Options of every command."""
    for decorate in (
        option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        option("-q", "--quiet", is_flag=True, help="Suppress progress and informational messages."),
    ):
        function = decorate(function)
    return function


def evaluation_text_options(function: Function) -> Function:
    """The options that select the evaluation text."""
    for decorate in (
        option("--encoding", default=None, help="Encoding of TEXT.  [default: that of the training text]"),
        option(
            "--split",
            type=click.Choice(["validation", "test"]),
            default=None,
            help="Split of the run's own text to use.  [default: validation]",
        ),
    ):
        function = decorate(function)
    return function


def _format_help(setting: FieldInfo) -> str:
    facts = [f"default: {format_value(setting.default)}"]
    limits = _format_range(setting)
    return f"{setting.description}  [{'; '.join(facts + limits)}]"


def _declared_settings(settings_class: type[Settings]) -> dict[str, FieldInfo]:
    return {
        name: setting for name, setting in settings_class.model_fields.items() if name in settings_class.__annotations__
    }


def _click_type(setting: FieldInfo) -> Any:
    if setting.json_schema_extra == ALLOWS_ESCAPES:
        return EscapedText()
    parts = list(_flatten(setting.annotation))
    words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    numbers = [part for part in parts if part in (int, float)]
    if setting.json_schema_extra == ALLOWS_AUTO:
        words = (*words, "auto")
    if words and numbers:
        return NumberOrWord(numbers[0], words)
    if words:
        return click.Choice(words)
    return {int: click.INT, float: click.FLOAT, bool: click.BOOL, str: click.STRING}[parts[0]]


def _flatten(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) in (Annotated, tuple):
        yield from _flatten(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _flatten(part)
    else:
        yield annotation


def _format_range(setting: FieldInfo) -> list[str]:
    metadata = list(setting.metadata)
    for part in _find_annotated(setting.annotation):
        metadata += [fact for field in get_args(part)[1:] for fact in getattr(field, "metadata", [])]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign}{NO_BREAK}{getattr(fact, name):g}"
        for fact in metadata
        for name, sign in signs.items()
        if hasattr(fact, name)
    ]
    return [", ".join(limit for limit in limits if not limit.endswith("e+18"))] if limits else []


def _find_annotated(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [part for each in get_args(annotation) for part in _find_annotated(each)]
    return []


def format_value(value: Any) -> str:
    """Format a setting as it would be typed, on one line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in ("", ()) else encode_escapes(str(value))


run_path = FilePath(path_type=Path)
run_argument = argument(
    "run", type=run_path, shell_complete=completion.runs, description="Run folder, or one of its checkpoints."
)
corpus_argument = argument(
    "corpus",
    nargs=-1,
    type=TextName(),
    shell_complete=completion.texts,
    description="Files, folders, glob patterns, names of downloaded corpora, or - for standard input.  "
    "[default: python, the source code of Python's standard library]",
)
text_argument = argument(
    "text",
    nargs=-1,
    type=TextName(),
    shell_complete=completion.texts,
    description="Files, folders, glob patterns, names of downloaded corpora, or - for standard input.  "
    "[default: the validation split of the run's own text]",
)
threads_option = option(
    "--threads", type=Integer(0, MAX_THREADS), default=0, help=_format_help(DeviceSettings.model_fields["threads"])
)
device_option = option(
    "--device",
    default="auto",
    help=_format_help(DeviceSettings.model_fields["device"]),
    shell_complete=COMPLETERS["device"],
)
cache_option = option(
    "--cache-dir",
    type=FilePath(path_type=Path, file_okay=False),
    envvar="CHARLM_CACHE_DIR",
    default=None,
    help="Cache folder for encoded texts.  [default: user cache folder; env: CHARLM_CACHE_DIR]",
)
checkpoint_option = option(
    "--checkpoint",
    default="best",
    metavar="best|latest|STEP",
    help="Checkpoint to use.  [default: best]",
    shell_complete=completion.checkpoints,
)
json_option = option("--json", is_flag=True, help="Print JSON instead of text.")
