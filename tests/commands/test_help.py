"""Help answers at once and says enough; so does the version."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from click import Context, Group, Option, ParamType

from charlm import __version__
from charlm.commands import COMMANDS, command_group, options
from charlm.commands.layout import Argument, Command
from charlm.config import SampleSettings, TrainSettings
from tests.commands.conftest import Cli
from tests.conftest import ROOT


def help_of(cli: Cli, *command: str) -> str:
    result = cli(*command, "--help")
    assert result.code == 0
    assert result.err == ""
    return result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(cli: Cli, command: str) -> None:
    examples = [line for line in help_of(cli, command).splitlines() if line.startswith(f"  charlm {command}")]
    assert examples


COMMON = {"--help", "--debug", "--quiet", "--threads", "--device", "--cache-dir", "--json"}  # of several commands


@pytest.mark.parametrize("command", ["sample", "eval", "score", "inspect"])
def test_every_option_has_an_example(cli: Cli, command: str) -> None:
    examples = [line for line in help_of(cli, command).splitlines() if f"charlm {command} " in line]
    shown = {word for line in examples for word in line.split()}
    found = command_group.get_command(Context(command_group), command)
    assert found is not None
    flags = [parameter for parameter in found.params if isinstance(parameter, Option)]
    names = [{*option.opts, *option.secondary_opts} for option in flags if not COMMON & set(option.opts)]
    assert len(names) > 3
    assert [name for name in names if not name & shown] == []


def all_commands() -> Iterator[tuple[str, ...]]:
    for name in COMMANDS:
        found = command_group.get_command(Context(command_group), name)
        subcommands = found.list_commands(Context(found)) if isinstance(found, Group) else []
        yield from [(name, subcommand) for subcommand in subcommands] or [(name,)]


@pytest.mark.parametrize("names", list(all_commands()), ids=" ".join)
def test_arguments_are_described_in_their_own_section(cli: Cli, names: tuple[str, ...]) -> None:
    found = command_group.get_command(Context(command_group), names[0])
    if isinstance(found, Group):
        found = found.get_command(Context(found), names[1])
    assert isinstance(found, Command)
    arguments = [parameter for parameter in found.params if not isinstance(parameter, Option)]
    text = help_of(cli, *names)
    assert ("\nArguments:\n" in text) == bool(arguments)
    shown = " ".join(text.partition("\nArguments:\n")[2].partition("\n\n")[0].split())
    for argument in arguments:
        assert isinstance(argument, Argument)
        assert argument.description.endswith((".", "]"))
        assert f"{str(argument.name).upper()} {' '.join(argument.description.split())}" in shown


def test_option_types_do_not_require_generic_click() -> None:
    assert options.ParamType is ParamType  # click 8.2 cannot subscript it


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_flag(cli: Cli, command: str) -> None:
    assert cli(command, "-h").out == help_of(cli, command)


def test_help_lists_commands_and_exit_codes(cli: Cli) -> None:
    text = help_of(cli)
    for command, purpose in COMMANDS.items():
        assert command in text
        assert purpose in text
    for code in ("0 success", "1 error", "2 invalid", "3 invalid", "4 training", "130, 143"):
        assert code in " ".join(text.split())


@pytest.mark.parametrize(("command", "settings"), [("train", TrainSettings), ("sample", SampleSettings)])
def test_every_setting_is_an_option_with_its_default(
    cli: Cli, command: str, settings: type[TrainSettings] | type[SampleSettings]
) -> None:
    text = " ".join(help_of(cli, command).split())
    for name, setting in settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert setting.description is not None
        assert f"{setting.description} [default: " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lines_fit_in_terminal(cli: Cli, command: str) -> None:
    assert max(map(len, help_of(cli, command).splitlines())) <= 100


def test_version(cli: Cli) -> None:
    assert cli("--version").out.split()[-1] == __version__


def test_unknown_command_is_rejected(cli: Cli) -> None:
    result = cli("trian")
    assert result.code == 2
    assert "'trian'" in result.err
    assert "Traceback" not in result.err


def test_checkout_launcher_runs_charlm() -> None:
    process = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0
    assert process.stdout.startswith("Usage: charlm ")
    assert process.stderr == ""


def test_import_and_help_do_not_import_torch_or_numpy() -> None:
    program = f"""
import sys
import charlm
from charlm.commands import command_group
for command in {list(COMMANDS)!r}:
    command_group.main(args=[command, "--help"], standalone_mode=False)
command_group.main(args=["--help"], standalone_mode=False)
sys.exit(", ".join({{"torch", "numpy"}} & set(sys.modules)))
"""
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert process.stderr.strip() == ""
