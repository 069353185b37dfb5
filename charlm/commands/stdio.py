"""Make stdin, stdout and stderr robust against closed streams, unencodable characters and broken pipes."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from charlm.generation.escaping import escape_control_characters

BROKEN_PIPE_ERRNOS = (errno.EPIPE, errno.EINVAL)  # a broken pipe, and how Windows reports one


def configure_stdio() -> None:
    """Replace closed standard streams by the null device, and configure open ones to be lossless.

    Standard output that is not a terminal is UTF-8, unless the user set an encoding, and line endings are not
    translated. Unencodable characters are escaped in messages and help; for command output, see ``output.py``.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from charlm.files import open_devnull

        sys.stdin = sys.stdin or open_devnull("r")  # in this order, so that each gets the descriptor of the missing one
        sys.stdout = sys.stdout or open_devnull("w")
        sys.stderr = sys.stderr or open_devnull("w")
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if not sys.stdout.isatty():
            sys.stdout.reconfigure(newline="\n")
            if not os.environ.get("PYTHONIOENCODING", "").partition(":")[0]:
                sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.reconfigure(errors=chosen_error_handler() or "backslashreplace")


def chosen_error_handler() -> str:
    """The user's error handler for unencodable characters, as in ``PYTHONIOENCODING=cp1252:replace``."""
    handler = os.environ.get("PYTHONIOENCODING", "").partition(":")[2]
    return "" if handler == "strict" else handler


def print_path(path: Path) -> None:
    """Print a path to standard output: as raw bytes for programs, escaped on a terminal."""
    if sys.stdout.isatty():
        click.echo(escape_control_characters(str(path)))
    else:
        click.echo(os.fsencode(path))


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Suppress broken-pipe errors on stdout: ``charlm sample … | head`` exits silently."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in BROKEN_PIPE_ERRNOS:
            raise
        discard_stdout()


def discard_stdout() -> None:
    """Discard buffered and future standard output, including the flush at exit."""
    with suppress(OSError, ValueError, AttributeError):  # not a real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
