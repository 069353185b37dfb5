"""Messages and progress bars on standard error, even if that is missing or closed.

A program that uses charlm as a library gets the messages through ``logging`` instead, from the logger ``charlm``.

Standard error may be missing (``pythonw``), be an object that only has ``write``, be closed, or lead to a terminal or a
pipe that is gone. None of this may end a run, so these errors are suppressed and the output is lost.
"""

import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("charlm")  # what is below WARNING goes nowhere, unless somebody asked for it

# The stream is missing or incomplete, cannot be written, or is closed
STREAM_ERRORS = (AttributeError, OSError, ValueError)


class Console:
    """The current standard error at each call. A stream-like object, for tqdm."""

    def write(self, text: str) -> int:
        with suppress(*STREAM_ERRORS):
            try:
                sys.stderr.write(text)
            except UnicodeEncodeError:
                sys.stderr.write(text.encode("ascii", "backslashreplace").decode("ascii"))
        return len(text)

    def flush(self) -> None:
        with suppress(*STREAM_ERRORS):
            sys.stderr.flush()

    def print_line(self, text: str) -> None:
        """Write a line, above a progress bar if there is one."""
        from tqdm import tqdm  # imported late, so that help appears immediately

        tqdm.write(text, file=cast(Any, self))
        self.flush()

    def isatty(self) -> bool:
        with suppress(*STREAM_ERRORS):
            return bool(sys.stderr.isatty())
        return False

    def fileno(self) -> int:
        return sys.stderr.fileno()  # tqdm uses it to find the terminal's width, if possible

    @property
    def encoding(self) -> str:
        return getattr(sys.stderr, "encoding", None) or "utf-8"


console = Console()


def is_heard(quiet: bool) -> bool:
    """Whether anybody gets the messages of :func:`announce`."""
    return not quiet or LOGGER.isEnabledFor(logging.INFO)


def announce(text: str, quiet: bool) -> None:
    """Log a message, and print it unless ``quiet``."""
    LOGGER.info("%s", text)
    if not quiet:
        console.print_line(text)


def is_notebook() -> bool:
    """Whether this is a notebook, which has its own progress bars."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def is_watched() -> bool:
    """Whether a progress bar is visible: on a terminal or in a notebook."""
    return console.isatty() or is_notebook()


def open_bar(quiet: bool = False, **options: Any) -> "tqdm[Any]":
    """A progress bar, hidden if ``quiet`` or if it would not be visible."""
    hidden = quiet or not is_watched()
    if is_notebook() and not hidden:
        from tqdm.auto import tqdm as notebook_bar

        return cast("tqdm[Any]", notebook_bar(**options))
    from tqdm import tqdm

    return tqdm(file=cast(Any, console), disable=hidden, **options)
