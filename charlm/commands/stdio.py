"""The three standard streams: there, able to take any text, and quiet about a reader that has had enough."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from charlm.generation.escaping import escape_control_characters

BROKEN_PIPE_ERRNOS = (errno.EPIPE, errno.EINVAL)  # a broken pipe; what Windows says of one


def configure_stdio() -> None:
    """Have standard streams that are closed lead nowhere, and those that are open lose nothing.

    Standard output that is not a terminal is UTF-8, unless the user set an encoding, with line ends as they are
    written. What an encoding lacks is escaped in messages and help; for what commands print, see ``output.py``.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from charlm.files import open_devnull

        sys.stdin = sys.stdin or open_devnull("r")  # in this order: each takes the number that the missing one has left
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
    """How the user wants characters to be handled that an encoding lacks: ``PYTHONIOENCODING=cp1252:replace``."""
    handler = os.environ.get("PYTHONIOENCODING", "").partition(":")[2]
    return "" if handler == "strict" else handler


def print_path(path: Path) -> None:
    """A path on standard output: for a program to read, in its own bytes; on a terminal, in what that can show."""
    if sys.stdout.isatty():
        click.echo(escape_control_characters(str(path)))
    else:
        click.echo(os.fsencode(path))


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Where text is written that a reader may have enough of: ``charlm sample … | head`` ends quietly."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in BROKEN_PIPE_ERRNOS:
            raise
        discard_stdout()


def discard_stdout() -> None:
    """What standard output still holds, and what is yet to come, goes nowhere, also when Python ends."""
    with suppress(OSError, ValueError, AttributeError):  # it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
