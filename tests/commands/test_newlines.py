"""Prompts are literal; who wants a newline in one learns how, in time. Input that cannot be decoded ends no session."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli, Result
from tests.conftest import ROOT

WAYS = ("$'…\\n'", '"…`n"')  # of bash and of PowerShell
FIXED = ("--length", "20", "--seed", "3")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a text with backslashes and newlines."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "code.txt").write_text("print('one\\ntwo')\nabc\n" * 200)
    settings = {"hidden_size": 8, "batch_size": 4, "sequence_length": 16, "threads": 1, "max_steps": 2}
    request = TrainingRequest([str(folder / "code.txt")], [SettingsSource("test", settings)], out=folder / "run")
    plan = plan_training(request)
    plan.trainer(quiet=True).train()
    return folder / "run"


@pytest.mark.parametrize("options", [(), ("--json",), ("--next-probabilities", "3"), ("--num-samples", "2")])
def test_a_backslash_in_a_prompt_is_literal_and_a_line_says_so(cli: Cli, code: Path, options: tuple[str, ...]) -> None:
    plain = cli("sample", code, "--prompt", "one\\two", *FIXED, *options)
    assert plain.code == 0
    result = cli("sample", code, "--prompt", "one\\ntwo", *FIXED, *options)
    assert result.code == 0
    (said,) = [line for line in result.err.splitlines() if "--prompt" in line]
    assert all(way in said for way in WAYS)
    assert "--prompt" not in plain.err
    if not options:
        assert result.out.startswith("one\\ntwo")


@pytest.mark.parametrize("prompt", ["Wölfe\\n", "\\nabla Wölfe"])
def test_where_the_model_knows_no_backslash_the_hint_says_how_to_give_a_newline(
    cli: Cli, trained: Path, prompt: str
) -> None:
    result = cli("sample", trained, "--prompt", prompt)
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert len(lines) == 2
    assert "U+005C" in lines[0]
    assert all(way in lines[1] for way in WAYS)


def test_the_line_comes_without_an_error_where_the_backslash_is_dropped(cli: Cli, trained: Path) -> None:
    result = cli("sample", trained, "--prompt", "Wölfe\\n", "--unknown", "skip", *FIXED)
    assert result.code == 0
    assert len(result.err.splitlines()) == 1
    assert all(way in result.err for way in WAYS)


def test_other_unknown_characters_keep_their_hint(cli: Cli, trained: Path, code: Path) -> None:
    for run, prompt in ((trained, "☃"), (trained, "\\"), (code, "☃\\n")):
        result = cli("sample", run, "--prompt", prompt)
        assert result.code == 1
        assert "--unknown" in result.err.splitlines()[-1]


def test_nothing_is_said_of_prompts_that_are_meant(cli: Cli, code: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("one\\ntwo")
    result = cli("sample", code, "--prompt-file", "prompt.txt", *FIXED)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("one\\ntwo")
    assert cli("sample", code, "--prompt", "one\\ntwo", "--quiet", *FIXED).err == ""
    assert cli("sample", code, "--prompt", "abc\n", *FIXED).err == ""


def test_a_prompt_from_the_environment_is_literal_too(cli: Cli, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLM_SAMPLE_PROMPT", "one\\n")
    result = cli("sample", code, *FIXED)
    assert result.out.startswith("one\\n")
    assert all(way in result.err for way in WAYS)


def test_help_shows_both_ways(cli: Cli) -> None:
    text = " ".join(cli("sample", "--help").out.split())
    assert all(way in text for way in WAYS)


# Conversations


def converse(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, lines: str, *options: str) -> Result:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode("utf-8", "surrogateescape"))))
    return cli("sample", run, "--interactive", *FIXED, *options)


@pytest.mark.parametrize(
    ("lines", "prompt"),
    [
        (":newline Die\nWölfe\n", "Die\nWölfe"),
        (":newline Die\n\n", "Die\n"),
        (":newline\nDie\n", "\nDie"),
        (":newline Die\n:newline\n:newline  Wölfe\nzählen\n", "Die\n\n Wölfe\nzählen"),
        (":newline Die\n:temperature 0.8\n:length 20\nWölfe\n", "Die\nWölfe"),
    ],
)
def test_newline_begins_a_prompt_of_several_lines(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, lines: str, prompt: str
) -> None:
    expected = cli("sample", trained, "--prompt", prompt, *FIXED).out
    again = expected.removeprefix(prompt)
    assert converse(cli, trained, monkeypatch, lines).out == expected
    assert converse(cli, trained, monkeypatch, lines + ":again\n").out == expected + again
    assert converse(cli, trained, monkeypatch, lines, "--no-echo").out == again
    after = cli("sample", trained, "--prompt", "Die", *FIXED).out
    assert converse(cli, trained, monkeypatch, lines + "Die\n").out == expected + after  # the next one begins anew


def test_the_help_of_a_conversation_has_it(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = converse(cli, trained, monkeypatch, ":help\n:newlin\n")
    assert ":newline TEXT" in result.out
    assert "Did you mean newline?" in result.err


@pytest.mark.parametrize("line", ["\udce9", "W\udcf6lfe", ":newline \udce9", ":stop \udcff", "\udcff\udcfeD"])
def test_a_line_that_cannot_be_decoded_does_not_end_the_session(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    expected = cli("sample", trained, "--prompt", "Die", *FIXED).out
    for options in ((), ("--unknown", "skip")):
        result = converse(cli, trained, monkeypatch, f"{line}\nDie\n", *options)
        assert (result.code, result.out) == (0, expected)
        assert 1 <= len(result.err.splitlines()) <= 2
        assert "0xe9" in result.err or "0xf" in result.err


@pytest.mark.parametrize("variables", [{"PYTHONUTF8": "1"}, {"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C"}])
def test_so_it_is_in_a_process_of_its_own(trained: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "charlm", "sample", str(trained), "--interactive", "--length", "5"],
        input=b"caf\xe9\nDie\n",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **variables},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0
    assert process.stdout.startswith(b"Die")
    assert b"0xe9" in process.stderr
    assert not list(tmp_path.glob("*.log"))
