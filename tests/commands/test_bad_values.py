"""Values that nobody means: forgotten variables, numbers beyond all machines, names that are none."""

from pathlib import Path

import pytest

from charlm.benchmark import report
from tests.commands.conftest import Cli
from tests.commands.test_bad_input import TINY, assert_rejected, run

__all__ = ["run"]  # a fixture


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", ""),
        ("train", "poem.txt", ""),
        ("train", "poem.txt", "--out", ""),
        ("train", "poem.txt", "--cache-dir="),
        ("train", "--resume", ""),
        ("sample", ""),
        ("sample", "run", "--prompt-file", ""),
        ("eval", "run", ""),
        ("eval", "run", "--context-plot", ""),
        ("score", "run", "--html", ""),
        ("info", "run", ""),
        ("corpus", "inspect", ""),
        ("corpus", "get", "text8", "--dir", ""),
        ("cache", "clear", "--cache-dir", ""),
    ],
)
def test_an_empty_path_is_not_the_working_folder(
    cli: Cli, run: Path, poem_file: Path, arguments: tuple[str, ...]
) -> None:
    assert_rejected(cli, 2, *arguments, expected=("must not be empty", arguments[0]))


@pytest.mark.parametrize(
    "command", [("train", "poem.txt", *TINY[:-2]), ("sample", "run"), ("eval", "run"), ("score", "run")]
)
def test_more_threads_than_any_machine_has(cli: Cli, run: Path, poem_file: Path, command: tuple[str, ...]) -> None:
    for threads in ("4097", "99999999999", "9" * 30):
        assert_rejected(cli, 2, *command, "--threads", threads, expected=("--threads", "at most 4096"))


def test_numbers_that_nothing_can_count_to(cli: Cli, run: Path) -> None:
    assert_rejected(
        cli, 2, "eval", "run", "--independent-windows", "9" * 30, expected=("--independent-windows", "at most")
    )
    assert_rejected(cli, 2, "eval", "run", "--num-segments", "9" * 30, expected=("--num-segments", "at most"))
    assert_rejected(
        cli, 2, "sample", "run", "--next-probabilities", "9" * 30, expected=("--next-probabilities", "at most")
    )
    assert cli("eval", "run", "--independent-windows", str(2**62)).code == 0


@pytest.mark.parametrize(
    "command", [("train", "poem.txt"), ("eval", "run", "poem.txt"), ("corpus", "inspect", "poem.txt")]
)
def test_an_encoding_whose_name_cannot_be_decoded(
    cli: Cli, run: Path, poem_file: Path, command: tuple[str, ...]
) -> None:
    assert_rejected(cli, 2, *command, "--encoding", "\udce9", expected=("--encoding", "unknown text encoding"))


def test_several_runs_of_which_there_is_none(cli: Cli, run: Path) -> None:
    for options in ((), ("--json",)):
        assert_rejected(
            cli, 2, "info", "nowhere", "elsewhere", *options, expected=("nowhere", "elsewhere", "no such run"), lines=3
        )
        assert cli("info", "nowhere", "run", *options).code == 0


def test_a_benchmark_that_does_not_fit_into_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 159999996800000016 bytes")

    monkeypatch.setattr(report, "run_benchmark", fail)
    assert_rejected(cli, 1, "bench", expected=("Out of memory", "--hidden-size"))


@pytest.mark.parametrize("command", [(), ("corpus",), ("cache",)])
def test_a_group_without_a_command_prints_its_help(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: ")
    assert result.err.rstrip() == cli(*command, "--help").out.rstrip()
