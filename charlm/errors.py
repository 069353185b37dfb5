"""Errors with a message, a hint and an exit code."""

import difflib
import shlex
import warnings
from collections.abc import Iterable
from pathlib import Path


class CharlmError(Exception):
    """A known error: ``message`` says what is wrong and where, ``hint`` what to do next. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class TextError(CharlmError):
    """The text cannot be used: it is undecodable, too short, or lacks something required."""


class UsageError(CharlmError):
    """The command line, the settings or the environment are wrong."""

    exit_code = 2


class CheckpointError(CharlmError):
    """A checkpoint is damaged, invalid, or does not fit the request."""

    exit_code = 3


class VersionError(CheckpointError):
    """Another version of charlm wrote a checkpoint: it is not damaged, and only ``--overwrite`` may remove it."""


class UnreadableError(CharlmError):
    """A file of a run is currently unreadable. It may not be damaged, so nothing must be concluded from it."""

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(
            f"{path}: cannot be read: {error.strerror or error}.",
            "Try again when it can be read; nothing was changed.",
        )


class DivergedError(CharlmError):
    """Training diverged: the loss is no longer finite."""

    exit_code = 4


class TrainingInterruptedError(CharlmError):
    """A signal stopped training, after a checkpoint was saved."""

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class CharlmWarning(UserWarning):
    """A warning that does not stop anything."""


_warned: set[str] = set()


def warn_once(about: str, message: str) -> None:
    """Warn once per process and topic (``about``)."""
    if about not in _warned:
        _warned.add(about)
        warnings.warn(message, CharlmWarning, stacklevel=3)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean …?``, or empty if no known name is similar."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def quote(path: Path | str) -> str:
    """Quote a path for the shell if needed."""
    return shlex.quote(str(path))


def pluralize(number: int, noun: str) -> str:
    """``1 file``, ``2 files``, ``1,000 files``: for nouns whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
