"""``charlm sample``: text on standard output, all else on standard error."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from charlm import runs
from tests.commands.conftest import Cli
from tests.conftest import ROOT


def test_the_text_is_the_prompt_and_as_many_characters_as_asked_for(cli: Cli, trained: Path) -> None:
    result = cli("sample", trained, "--prompt", "Die W", "--length", "40")
    assert result.code == 0, result.err
    assert result.out.startswith("Die W")
    assert len(result.out) == 5 + 40 + 1
    assert result.err == ""


def test_the_same_seed_writes_the_same_text(cli: Cli, trained: Path) -> None:
    texts = [cli("sample", trained, "--length", "80", "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_several_texts_are_set_apart_on_standard_error(cli: Cli, trained: Path) -> None:
    options = ("--length", "0", "--prompt", "Die", "--num-samples", "3", "--seed", "5")
    result = cli("sample", trained, *options)
    assert result.out == "Die\n" * 3
    assert [line.strip("- ") for line in result.err.splitlines()] == [f"{n} of 3, seed 5" for n in (1, 2, 3)]
    assert cli("sample", trained, *options, "--quiet").err == ""


def test_stop_can_be_given_several_times(cli: Cli, trained: Path) -> None:
    free = cli("sample", trained, "--seed", "1", "--length", "200").out
    first, second = free[60:62], free[30:32]
    stopped = cli("sample", trained, "--seed", "1", "--length", "200", "--stop", first, "--stop", second).out
    assert stopped == free[: min(free.find(first), free.find(second)) + 2] + "\n"
    refused = cli("sample", trained, "--stop", "")
    assert refused.code == 2
    assert "stop: an empty text" in refused.err


def test_a_run_a_step_and_a_checkpoint_folder_can_be_named(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "80", "--seed", "1")
    best = runs.read(trained, "best").step
    assert cli("sample", trained, *fixed).out == cli("sample", trained, "--checkpoint", best, *fixed).out
    first = cli("sample", trained, "--checkpoint", "1", *fixed)
    assert first.out == cli("sample", trained / "step-00000001", *fixed).out
    assert first.out != cli("sample", trained, "--checkpoint", "last", *fixed).out


def test_neither_corpus_nor_settings_of_the_run_are_needed(cli: Cli, trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "elsewhere"
    checkpoint.mkdir()
    for path in (trained / "step-00000004").iterdir():
        (checkpoint / path.name).write_bytes(path.read_bytes())
    fixed = ("--length", "30", "--seed", "1")
    assert cli("sample", checkpoint, *fixed).out == cli("sample", trained / "step-00000004", *fixed).out


def test_each_character_is_shown_as_it_is_made(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        shown: ClassVar[list[str]] = []

        def flush(self) -> None:
            self.shown.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    cli("sample", trained, "--length", "30", "--prompt", "Die")
    text = Terminal.shown[-1]
    assert {text[:length] for length in range(4, 34)} <= set(Terminal.shown)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
def test_a_reader_that_has_enough_ends_it_quietly(trained: Path) -> None:
    command = [sys.executable, "-m", "charlm", "sample", str(trained), "--length", "1000000", "--prompt", "Die"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"D"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
