"""Command output: to a terminal, a pipe or a file. Nothing is lost without an error."""

import codecs
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import click

from charlm.commands.layout import option
from charlm.commands.stdio import BROKEN_PIPE_ERRNOS, chosen_error_handler, discard_stdout
from charlm.errors import CharlmError, UsageError
from charlm.files import atomic_writer
from charlm.generation.escaping import escape_control_characters

CHOOSE_OTHER_PATH = "Choose a different path."
USE_OUTPUT_OPTION = "Write to a file, which is always UTF-8: --output FILE."
RUN_FILE_NAMES = re.compile(
    r"step-\d+|config\.toml|corpus\.json|metrics\.jsonl|events\.out\.tfevents\..*|\.lock|validation"
)
INPUT_PARAMETERS = ("text", "corpus", "prompt_file")  # parameters that name a command's inputs

Function = TypeVar("Function", bound=Callable[..., Any])


class BrokenPipeOutputError(Exception):
    """The reader of standard output, such as ``head``, closed the pipe."""


class Output:
    """The destination of a command's output. Accepts text in pieces, or bytes, which pipes and files receive
    unchanged.
    """

    is_terminal = False
    is_file = False

    def write(self, text: str) -> None:
        raise NotImplementedError

    def write_raw(self, data: bytes, final: bool = False) -> None:
        """``final``: these bytes are the end of a text; a character that is not whole by then never will be."""
        raise NotImplementedError

    def write_json(self, content: object, indent: int | None = 1) -> None:
        """Write an object as ASCII, which every encoding supports and no terminal interprets."""
        self.write(json.dumps(content, indent=indent) + "\n")

    def require(self, text: str) -> None:
        """Raise ``CharlmError`` before the computation starts if this text cannot be encoded."""


class TerminalOutput(Output):
    """Escapes control sequences, characters that the terminal cannot encode, and bytes that are not UTF-8."""

    is_terminal = True

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.pending = ""  # a carriage return, until it is known whether it is part of a line end

    def write(self, text: str) -> None:
        text = self.pending + text
        self.pending = "\r" * text.endswith("\r")
        shown = escape_control_characters(text.removesuffix(self.pending))
        with _report_stream_errors():
            self.stream.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
            self.stream.flush()

    def write_raw(self, data: bytes, final: bool = False) -> None:
        self.write(self.decoder.decode(data, final))


class PipeOutput(Output):
    """Text in the stream's encoding, with an error for unencodable characters; bytes unchanged.

    Bytes of names and prompts that are not UTF-8, which Python represents as surrogates, are written unchanged.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.binary: BinaryIO | None = getattr(stream, "buffer", None)  # missing in notebooks
        self.encoding = (getattr(stream, "encoding", None) if self.binary else None) or "utf-8"
        self.errors = chosen_error_handler() or "surrogateescape"
        self.encoder = codecs.getincrementalencoder(self.encoding)(self.errors)

    def write(self, text: str) -> None:
        with _report_encode_errors(self.encoding):
            data = self.encoder.encode(text)
        if self.binary is None:
            self._send(self.stream, text)
        else:
            self._send(self.binary, data)

    def write_raw(self, data: bytes, final: bool = False) -> None:
        if self.binary is None:
            self._send(self.stream, data.decode("utf-8", "backslashreplace"))
        else:
            self._send(self.binary, data)

    def _send(self, to: Any, piece: str | bytes) -> None:
        with _report_stream_errors():
            to.write(piece)
            self.stream.flush()

    def require(self, text: str) -> None:
        with _report_encode_errors(self.encoding):
            text.encode(self.encoding, self.errors)


class FileOutput(Output):
    """UTF-8 or unchanged bytes, to a file that appears when it is complete."""

    is_file = True

    def __init__(self, file: "OutputFile") -> None:
        self.file = file

    def write(self, text: str) -> None:
        with _report_encode_errors():
            data = text.encode("utf-8", "surrogateescape")
        self.file.write(data)

    def write_raw(self, data: bytes, final: bool = False) -> None:
        self.file.write(data)


class OutputFile:
    """The file that :func:`output_file` yields."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file

    def write(self, data: bytes) -> None:
        with _report_os_errors(self.path):
            self.file.write(data)


def output_option(function: Function) -> Function:
    """The option ``--output``, and what it names, open, as the parameter ``output``: an ``Output``."""

    @functools.wraps(function)
    def with_output(*args: Any, output: Path | None, **kwargs: Any) -> Any:
        if output is not None and output != Path("-"):
            _reject_protected_path(output, kwargs)
        with open_output(output) as opened:
            return function(*args, output=opened, **kwargs)

    decorate = option(
        "--output",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="Write to this file, in UTF-8; replaced when complete.  [default: -, standard output]",
    )
    return decorate(with_output)  # type: ignore[return-value]


@contextmanager
def open_output(path: Path | None) -> Iterator[Output]:
    """Open standard output or a file. Raises ``UsageError`` before the block starts if it is not writable."""
    if path is not None and path != Path("-"):
        with output_file(path) as file:
            yield FileOutput(file)
        return
    with suppress(BrokenPipeOutputError):
        yield TerminalOutput(sys.stdout) if sys.stdout.isatty() else PipeOutput(sys.stdout)


@contextmanager
def output_file(path: Path) -> Iterator[OutputFile]:
    """Open an output file before the computation in the block, so that an unwritable path fails immediately.

    A symbolic link is kept and its target is written. Raises ``UsageError`` if the file cannot be written; other
    exceptions of the block propagate.
    """
    with _report_os_errors(path):
        target = _resolve_link(path)
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file, and is not overwritten"
            raise UsageError(f"{path}: is {what}.", CHOOSE_OTHER_PATH)
        if target.exists() and not os.access(target, os.W_OK):
            raise UsageError(f"{path}: is read-only.", CHOOSE_OTHER_PATH)
    with ExitStack() as stack:
        with _report_os_errors(path):
            file = stack.enter_context(atomic_writer(target))
        yield OutputFile(path, file)
        with _report_os_errors(path):
            stack.close()


def _resolve_link(path: Path) -> Path:
    """The target of a symbolic link, which may not exist yet, or the path itself."""
    try:
        return path.resolve() if path.is_symlink() else path
    except RuntimeError:  # until Python 3.13
        raise OSError("a link that leads back to itself") from None


def _reject_protected_path(path: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` if the path is one of the command's inputs or belongs to its run."""
    with _report_os_errors(path):
        target = _resolve_link(path).resolve()
    inputs = [name for parameter in INPUT_PARAMETERS for name in _path_names(parameters.get(parameter))]
    if any(Path(name).resolve() == target for name in inputs if name != "-"):
        raise UsageError(f"{path}: is read by this command, and is not overwritten.", CHOOSE_OTHER_PATH)
    for name in [*_path_names(parameters.get("run")), *_path_names(parameters.get("runs"))]:
        run = Path(name).resolve()
        if run in target.parents:
            first = target.relative_to(run).parts[0]
            if any(RUN_FILE_NAMES.fullmatch(part) for part in (run.name, first)):
                raise UsageError(f"{path}: belongs to a run, and is not overwritten.", CHOOSE_OTHER_PATH)


def _path_names(value: object) -> Iterable[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, tuple | list) else [str(value)]


@contextmanager
def _report_encode_errors(encoding: str = "UTF-8") -> Iterator[None]:
    """Convert encoding errors of the block to ``CharlmError``."""
    try:
        yield
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise CharlmError(
            f"The output has U+{ord(character):04X}, which its encoding, {encoding}, cannot hold.", USE_OUTPUT_OPTION
        ) from None


@contextmanager
def _report_stream_errors() -> Iterator[None]:
    """Convert write errors on standard output to ``CharlmError``; a broken pipe ends the command silently."""
    try:
        yield
    except OSError as error:
        discard_stdout()
        if error.errno in BROKEN_PIPE_ERRNOS:
            raise BrokenPipeOutputError from None
        message = f"Standard output cannot be written: {error.strerror or error}."
        raise CharlmError(message, "Write to a file instead: --output FILE.") from None


@contextmanager
def _report_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}.", CHOOSE_OTHER_PATH) from None
