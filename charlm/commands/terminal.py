"""The three standard streams: there, able to take any text, and quiet about a reader that has had enough."""

import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from charlm.generation.terminal import harmless

READER_GONE = (errno.EPIPE, errno.EINVAL)  # a broken pipe; what Windows says of one


def prepare_streams() -> None:
    """Have standard streams that are closed lead nowhere, and those that are open take every character.

    For a character that its encoding lacks, an output gets a question mark.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from charlm.files import nowhere

        sys.stdin = sys.stdin or nowhere("r")  # in this order: each takes the number that the missing one has left
        sys.stdout = sys.stdout or nowhere("w")
        sys.stderr = sys.stderr or nowhere("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_json(content: object, indent: int | None = 1) -> None:
    """An object on standard output, in ASCII: every encoding has it, and no terminal obeys it."""
    click.echo(json.dumps(content, indent=indent))


def print_path(path: Path) -> None:
    """A path on standard output: for a program to read, in its own bytes; on a terminal, in what that can show."""
    if sys.stdout.isatty():
        click.echo(harmless(str(path)))
    else:
        click.echo(os.fsencode(path))


@contextmanager
def standard_output() -> Iterator[None]:
    """Where text is written that a reader may have enough of: ``charlm sample … | head`` ends quietly."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in READER_GONE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
