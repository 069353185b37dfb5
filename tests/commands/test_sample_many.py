"""Many samples: printed in order as they are finished, in memory that does not grow with their number."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charlm.console import Console
from charlm.generation import sampler
from charlm.generation.sample import Sample
from charlm.generation.sampler import Sampler
from tests.commands.conftest import Cli
from tests.conftest import ROOT

NAMES = ("--stop-at-newline", "--temperature", "3", "--length", "40", "--seed", "5")


def test_newline_terminated_samples_have_no_blank_lines(cli: Cli, trained: Path) -> None:
    options = (*NAMES, "--num-samples", "60")
    found = [json.loads(line) for line in cli("sample", trained, *options, "--json").out.splitlines()]
    assert {sample["finish_reason"] for sample in found} == {"newline", "length"}
    result = cli("sample", trained, *options)
    assert result.out == "".join(sample["text"].removesuffix("\n") + "\n" for sample in found)
    assert result.err.count("\n") == 1  # the seed, and no line for each sample
    assert "seed 5" in result.err
    assert cli("sample", trained, *options, "--quiet").err == ""


def test_single_newline_terminated_sample_has_no_blank_line(cli: Cli, trained: Path) -> None:
    out = cli("sample", trained, "--stop-at-newline", "--temperature", "2", "--length", "3000", "--seed", "1").out
    assert out.index("\n") == len(out) - 1


@pytest.mark.parametrize("options", [NAMES, ("--length", "20", "--seed", "5")])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_sample_does_not_depend_on_batch(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, batch: int, options: tuple[str, ...]
) -> None:
    command = ("sample", trained, "--num-samples", "7", "--length", "20", "--seed", "5", "--prompt", "Die", *options)
    whole = cli(*command)
    monkeypatch.setattr(sampler, "BATCH", batch)
    assert cli(*command) == whole
    alone = cli("sample", trained, "--length", "20", "--seed", "5", "--prompt", "Die", *options)
    assert whole.out.startswith(alone.out)
    printed = ""
    for number, line in enumerate(cli(*command, "--json").out.splitlines()):
        sample = json.loads(line)
        assert sample["index"] == number
        printed += "Die" + sample["text"] + "\n" * (sample["finish_reason"] != "newline")
    assert printed == whole.out


@pytest.mark.parametrize("options", [(), ("--json",), ("--stop-at-newline",)])
def test_samples_are_printed_in_order_as_they_finish(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    printed: list[int] = []
    begin = Sampler.new_samples

    class Watched(io.StringIO):
        pass

    def noted(self: Sampler, *arguments: Any) -> list[Sample]:
        printed.append(len(sys.stdout.getvalue().splitlines()))  # type: ignore[attr-defined]
        return begin(self, *arguments)

    monkeypatch.setattr(sampler, "BATCH", 2)
    monkeypatch.setattr(Sampler, "new_samples", noted)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Watched())
        cli("sample", trained, "--num-samples", "6", "--ban", r"\n", "--length", "20", "--quiet", *options)
    assert printed == [0, 2, 4]


def test_memory_does_not_grow_with_the_number_of_samples(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc

    most = 0
    in_order = Sampler.iter_in_order

    def counted(self: Sampler) -> Any:
        nonlocal most
        for number, sample in enumerate(in_order(self)):
            if number % 50 == 0:
                most = max(most, sum(isinstance(each, Sample) for each in gc.get_objects()))
            yield sample

    monkeypatch.setattr(sampler, "BATCH", 4)
    monkeypatch.setattr(Sampler, "iter_in_order", counted)
    assert cli("sample", trained, "--num-samples", "60", "--length", "5", "--quiet").out.count("\n") >= 60
    assert 4 <= most <= 9  # a batch, the next one, and the sample that is printed


def test_length_zero_prints_only_prompts(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "BATCH", 2)
    command = ("sample", trained, "--num-samples", "5", "--length", "0", "--prompt", "Die", "--quiet")
    assert cli(*command).out == "Die\n" * 5
    assert [json.loads(line)["index"] for line in cli(*command, "--json").out.splitlines()] == list(range(5))


@pytest.mark.parametrize("options", [(), ("--json",), ("--num-samples", "9"), ("--output", "out.txt")])
def test_progress_bar_is_shown_if_text_is_not_on_terminal(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Console, "isatty", lambda self: True)
    monkeypatch.setattr("charlm.commands.sample.BAR_AFTER_SECONDS", 0)
    command = ("sample", trained, "--length", "30", *options)
    assert "sampling" in cli(*command).err
    assert "sampling" not in cli(*command, "--quiet").err

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    if "--output" not in options:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Terminal())
            assert "sampling" not in cli(*command).err


def test_short_sample_shows_no_progress_bar(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "isatty", lambda self: True)
    assert "sampling" not in cli("sample", trained, "--length", "5").err


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_broken_pipe_after_some_lines_exits_silently(trained: Path, options: tuple[str, ...]) -> None:
    words = ("sample", str(trained), "--num-samples", "1000000", "--stop-at-newline", "--length", "30", "--quiet")
    with subprocess.Popen(
        [sys.executable, "-m", "charlm", *words, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline().endswith(b"\n")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
