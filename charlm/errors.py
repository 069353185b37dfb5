"""Errors for people: what is wrong and where, what to do next, and the exit code that scripts see."""

import difflib
import shlex
import warnings
from collections.abc import Iterable
from pathlib import Path


class CharlmError(Exception):
    """A known fault: ``message`` says what is wrong and where, ``hint`` what to do next. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class TextError(CharlmError):
    """The text cannot be used: it does not decode, is too short, or lacks what is asked of it."""


class UsageError(CharlmError):
    """The command line, the settings or the environment are wrong."""

    exit_code = 2


class CheckpointError(CharlmError):
    """A checkpoint is damaged, is not one, or does not fit what is asked of it."""

    exit_code = 3


class VersionError(CheckpointError):
    """Another version of charlm wrote a checkpoint: it is not damaged, and only ``--overwrite`` may remove it."""


class UnreadableError(CharlmError):
    """A file of a run cannot be read just now, which does not mean that it is damaged: nothing may be concluded."""

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(
            f"{path}: cannot be read: {error.strerror or error}.",
            "Try again when it can be read; nothing was changed.",
        )


class DivergedError(CharlmError):
    """Training diverged: the loss is not a finite number any more."""

    exit_code = 4


class TrainingInterruptedError(CharlmError):
    """A signal stopped the training, after it was saved."""

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number


class CharlmWarning(UserWarning):
    """Something that people should know and that stops nothing."""


_warned: set[str] = set()


def warn_once(about: str, message: str) -> None:
    """Warn, but only the first time in this process that it is ``about`` this."""
    if about not in _warned:
        _warned.add(about)
        warnings.warn(message, CharlmWarning, stacklevel=3)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean …?``, or nothing where no known name is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def quote(path: Path | str) -> str:
    """A path as it is to be typed: in quotes if it has spaces or other characters that mean something to shells."""
    return shlex.quote(str(path))


def pluralize(number: int, noun: str) -> str:
    """``1 file``, ``2 files``, ``1,000 files``: for nouns whose plural ends in s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
