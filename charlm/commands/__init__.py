"""The command line: one file per command, which parses, calls and prints. The only package that uses click.

A command's module is imported when the command is used, so ``charlm --help`` answers without importing torch.
"""

import importlib
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Any, NoReturn

import click

from charlm import __version__
from charlm.commands.stdio import configure_stdio
from charlm.console import console
from charlm.errors import CharlmError, CharlmWarning, did_you_mean
from charlm.generation.escaping import escape_control_characters
from charlm.machine import shorten_thread_waits

COMMANDS = {
    "train": "Train a language model on text.",
    "sample": "Generate text with a trained model.",
    "eval": "Measure a model's loss on a text, in nats and bits per character.",
    "score": "Print the probability and rank of every character in a text.",
    "inspect": "Show what happens inside a model while it reads a text.",
    "info": "Show a run's settings, size, vocabulary and metrics.",
    "plot": "Plot the learning curves of runs.",
    "bench": "Benchmark training and sampling on this machine.",
    "corpus": "Download and inspect texts.",
    "cache": "Clear the cache of encoded texts.",
}


class LazyGroup(click.Group):
    """A group whose commands are listed without being imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            if not (cmd_name.startswith("-") or ctx.resilient_parsing):  # the latter for the Tab key
                ctx.fail(f"No such command {cmd_name!r}.{did_you_mean(cmd_name, COMMANDS)}")
            return None
        command: click.Command = importlib.import_module(f"charlm.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": "CHARLM", "help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 success; 1 error; 2 invalid command line, settings or environment; "
    "3 invalid or damaged checkpoint; 4 training diverged; 130, 143 interrupted by a signal.",
)
@click.version_option(__version__, prog_name="charlm")
@click.option("--debug", is_flag=True, expose_value=False, is_eager=True, help="Show tracebacks.")
def command_group() -> None:
    """Train, evaluate and sample character-level LSTM language models.

    Options can also be set by environment variables, for example CHARLM_TRAIN_HIDDEN_SIZE=512 for charlm train
    --hidden-size 512.
    """


def main() -> NoReturn:
    """Run the command line. Maps every outcome to an exit code, and prints no traceback unless ``--debug`` is given."""
    configure_stdio()
    shorten_thread_waits()
    if "_CHARLM_COMPLETE" in os.environ:
        importlib.import_module("charlm.commands.completion")  # click finds there how to talk to shells
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        result = command_group.main(args=arguments, prog_name="charlm", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        console.print_line(error.format_message())
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "charlm"
        console.print_line(f"charlm: {error.format_message()}\nRun '{command} --help' for help.")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.print_line("Interrupted.")
        sys.exit(130)
    except CharlmError as error:
        if debug:
            traceback.print_exc()
        else:
            console.print_line(f"charlm: {escape_control_characters(str(error))}")
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        from charlm.files import write_temp_log

        details = traceback.format_exc()
        summary = (str(error).splitlines() or [""])[0]
        try:
            what_to_do = f"The traceback was saved to {write_temp_log(details)}; use --debug to print it."
        except OSError:  # there is no temporary folder, or it is full
            what_to_do = details.rstrip()
        console.print_line(f"charlm: {type(error).__name__}: {summary}\n{what_to_do}")
        sys.exit(1)


def _on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _show_warning(message: Warning | str, category: type[Warning], *details: Any) -> None:
    if issubclass(category, CharlmWarning):
        console.print_line(f"charlm: {escape_control_characters(str(message))}")
