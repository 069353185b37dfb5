"""From settings to click options, and from presets, environment and flags back to settings."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, BinaryIO, Literal, TypeVar, Union, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from charlm.config import COMMAND_LINE, ESCAPES, Layer, Settings
from charlm.errors import UsageError
from charlm.files import written
from charlm.generation.terminal import unescaped

ELSEWHERE = "Choose a different path."

Function = TypeVar("Function", bound=Callable[..., Any])


class Escaped(click.ParamType[str]):
    """Text in which ``\\n``, ``\\r``, ``\\t``, ``\\0`` and ``\\\\`` stand for what shells make hard to write."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return unescaped(value)


class NumberOrWord(click.ParamType[Any]):
    """A number, or one of a few words, such as auto."""

    def __init__(self, number: type[int] | type[float], words: tuple[str, ...]) -> None:
        self.number = number
        self.words = words
        self.name = f"{'integer' if number is int else 'float'}|{'|'.join(words)}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        try:
            return self.number(value)
        except ValueError:
            self.fail(f"{value!r} is not a number or {' or '.join(self.words)}.", param, ctx)


def settings_options(sections: Mapping[str, type[Settings]]) -> Callable[[Function], Function]:
    """An option for each setting of each section, without defaults: what was not given stays ``None``."""

    def decorate(function: Function) -> Function:
        for title, kind in reversed(list(sections.items())):
            for name, setting in reversed(list(_own_settings(kind).items())):
                flag = "--" + name.replace("_", "-")
                parameter_type = _click_type(setting)
                if parameter_type is click.BOOL:
                    flag = f"{flag}/--no-{flag[2:]}"
                option = click.option(
                    flag,
                    name,
                    type=parameter_type,
                    multiple=get_origin(setting.annotation) is tuple,
                    default=None,
                    help=_help(setting),
                    cls=SectionOption,
                    section=title,
                )
                function = option(function)
        return function

    return decorate


def given(context: click.Context, kind: type[Settings]) -> list[Layer]:
    """The settings that the environment and the command line give, as layers, the command line last."""
    layers: list[Layer] = []
    environment = (f"{context.auto_envvar_prefix}_…".upper(), ParameterSource.ENVIRONMENT)
    for origin, source in (environment, (COMMAND_LINE, ParameterSource.COMMANDLINE)):
        values = {
            name: value
            for name, value in context.params.items()
            if name in kind.model_fields and context.get_parameter_source(name) is source
        }
        layers.append((origin, values))
    return layers


class OutputFile:
    """What :func:`output_file` gives."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file

    def write(self, data: bytes) -> None:
        with _told(self.path):
            self.file.write(data)


@contextmanager
def output_file(path: Path) -> Iterator[OutputFile]:
    """A file for what the block works out, begun before it: who cannot write there learns it at once.

    Raises ``UsageError`` where it cannot be written; what else the block raises is its own.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file, and is not overwritten"
        raise UsageError(f"{path}: is {what}.", ELSEWHERE)
    with ExitStack() as stack:
        with _told(path):
            file = stack.enter_context(written(path))
        yield OutputFile(path, file)
        with _told(path):
            stack.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}.", ELSEWHERE) from None


def common_options(function: Function) -> Function:
    """Options of every command."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("-q", "--quiet", is_flag=True, help="Suppress progress and informational messages."),
    ):
        function = option(function)
    return function


threads_option = click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0: PyTorch's default."
)
device_option = click.option(
    "--device", default="auto", help="Device: auto, cpu, cuda, cuda:1 or mps.  [default: auto]"
)
cache_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CHARLM_CACHE_DIR",
    default=None,
    help="Cache folder for encoded texts.  [default: user cache folder; env: CHARLM_CACHE_DIR]",
)
checkpoint_option = click.option(
    "--checkpoint", default="best", metavar="best|last|STEP", help="Checkpoint to use.  [default: best]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
run_path = click.Path(path_type=Path)


def subject_options(function: Function) -> Function:
    """The options that say what a model is tried on."""
    for option in (
        click.option("--encoding", default=None, help="Encoding of TEXT.  [default: that of the training text]"),
        click.option(
            "--part",
            type=click.Choice(["validation", "test"]),
            default=None,
            help="Split of the run's own text to use.  [default: validation]",
        ),
    ):
        function = option(function)
    return function


class SectionOption(click.Option):
    """An option that knows under which heading of the help it stands."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The option as it was given: its flag, or the environment variable that a bad value stands in."""
        if ctx is not None and ctx.get_parameter_source(self.name or "") is not ParameterSource.COMMANDLINE:
            variable = self._variable(ctx)
            if variable in os.environ:
                return variable
        return super().get_error_hint(ctx)

    def _variable(self, ctx: click.Context) -> str:
        return f"{ctx.auto_envvar_prefix}_{self.name}".upper()


class SectionedCommand(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _own_settings(kind: type[Settings]) -> dict[str, FieldInfo]:
    return {name: setting for name, setting in kind.model_fields.items() if name in kind.__annotations__}


def _click_type(setting: FieldInfo) -> Any:
    if setting.json_schema_extra == ESCAPES:
        return Escaped()
    parts = list(_flatten(setting.annotation))
    words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    numbers = [part for part in parts if part in (int, float)]
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


def _help(setting: FieldInfo) -> str:
    facts = [f"default: {_spelled(setting.default)}"]
    limits = _limits(setting)
    return f"{setting.description}  [{'; '.join(facts + limits)}]"


def _limits(setting: FieldInfo) -> list[str]:
    metadata = list(setting.metadata)
    for part in _annotated_parts(setting.annotation):
        metadata += [fact for field in get_args(part)[1:] for fact in getattr(field, "metadata", [])]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(fact, name):g}" for fact in metadata for name, sign in signs.items() if hasattr(fact, name)
    ]
    return [", ".join(limit for limit in limits if not limit.endswith("e+18"))] if limits else []


def _annotated_parts(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [part for each in get_args(annotation) for part in _annotated_parts(each)]
    return []


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in ("", ()) else str(value)
