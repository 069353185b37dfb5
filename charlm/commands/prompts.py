"""Prompts are taken literally: LaTeX and code need their backslashes. Who meant a newline is told how to give one."""

from collections.abc import Iterator
from contextlib import contextmanager

from charlm.console import console
from charlm.errors import TextError

LITERAL = "--prompt: \\n was taken literally; for a newline: $'…\\n' in bash, \"…`n\" in PowerShell, or --prompt-file."


@contextmanager
def explained(prompt: str, quiet: bool) -> Iterator[None]:
    """Where a prompt is encoded that was given as an argument.

    If it has a literal ``\\n``, a line says so: in place of the hint where the model has no backslash, else at the end.
    """
    if "\\n" not in prompt:
        yield
        return
    try:
        yield
    except TextError as error:
        if "U+005C " not in error.message:  # the backslash
            raise
        raise TextError(error.message, LITERAL) from None
    if not quiet:
        console.print_line(LITERAL)
