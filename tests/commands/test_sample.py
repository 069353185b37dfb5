"""``charlm sample``: text on standard output, all else on standard error."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from charlm import runs
from charlm.commands import terminal
from tests.commands.conftest import Cli, Result
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


# Prompts


def test_a_prompt_comes_from_a_file_or_standard_input(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ("--length", "30", "--seed", "1")
    expected = cli("sample", trained, "--prompt", "Die Träume\n", *fixed).out
    (tmp_path / "prompt.txt").write_text("Die Träume\n", encoding="utf-8", newline="")
    assert cli("sample", trained, "--prompt-file", "prompt.txt", *fixed).out == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Die Träume\n".encode())))
    assert cli("sample", trained, "--prompt-file", "-", *fixed).out == expected


def test_a_prompt_of_any_length_is_read(cli: Cli, trained: Path, tmp_path: Path, poem: str) -> None:
    (tmp_path / "prompt.txt").write_text(poem * 3, encoding="utf-8", newline="")
    result = cli("sample", trained, "--prompt-file", "prompt.txt", "--length", "5", "--no-echo", "--seed", "1")
    assert len(result.out) == 6


def test_the_prompt_is_echoed_unless_it_is_not_wanted(cli: Cli, trained: Path) -> None:
    fixed = ("--prompt", "Die", "--length", "30", "--seed", "1")
    assert cli("sample", trained, *fixed).out == "Die" + cli("sample", trained, *fixed, "--no-echo").out


def test_unknown_characters_of_a_prompt_can_be_skipped(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "30", "--seed", "1", "--no-echo")
    skipped = cli("sample", trained, "--prompt", "D☃i☀e", "--unknown", "skip", *fixed)
    assert skipped.out == cli("sample", trained, "--prompt", "Die", *fixed).out
    for how in ("error", "replace"):  # this model has no unknown symbol
        result = cli("sample", trained, "--prompt", "D☃ie", "--unknown", how, *fixed)
        assert result.code == 1
        assert "U+2603 SNOWMAN" in result.err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--prompt-file", "nowhere"), 2, "nowhere"),
        (("--prompt-file", "latin.txt"), 1, "offset 3"),
        (("--prompt-file", "latin.txt", "--prompt", "a"), 2, "one prompt"),
        (("--interactive", "--json"), 2, "--interactive"),
        (("--ban", "x", "--allow", "x"), 2, "--allow and --ban"),
        (("--top-p", "0"), 2, "--top-p"),
        (("--min-p", "1.5"), 2, "--min-p"),
        (("--top-next", "0"), 2, "--top-next"),
        (("--unknown", "ignore"), 2, "--unknown"),
        (("--precision", "int4"), 2, "--precision"),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, trained: Path, tmp_path: Path, options: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    result = cli("sample", trained, *options)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert len(result.err.splitlines()) <= 3


# What is drawn, and what is told of it


def test_characters_can_be_banned_and_allowed(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "200", "--temperature", "3", "--seed", "1", "--no-echo")
    assert not set("eaiou ") & set(cli("sample", trained, "--ban", "eaiou ", *fixed).out)
    assert set(cli("sample", trained, "--allow", "abc", *fixed).out) <= set("abc\n")


@pytest.mark.parametrize("option", [("--top-k", "1"), ("--top-p", "1e-9"), ("--min-p", "1"), ("--temperature", "0")])
def test_every_way_of_narrowing_ends_at_the_most_probable_character(
    cli: Cli, trained: Path, option: tuple[str, str]
) -> None:
    greedy = cli("sample", trained, "--temperature", "0", "--length", "50", "--seed", "1").out
    assert cli("sample", trained, *option, "--length", "50", "--seed", "2").out == greedy


def test_json_tells_what_drew_it(cli: Cli, trained: Path) -> None:
    options = ("--prompt", "Die", "--num-samples", "3", "--length", "40", "--seed", "7", "--stop", "e")
    result = cli("sample", trained, *options, "--json")
    samples = [json.loads(line) for line in result.out.splitlines()]
    assert [sample["index"] for sample in samples] == [0, 1, 2]
    for sample in samples:
        assert (sample["seed"], sample["prompt"]) == (7, "Die")
        assert sample["characters"] == len(sample["text"])
        assert sample["ended_by"] == ("stop" if sample["text"].endswith("e") else "length")
        bits = -sample["log_probability_nats"] / math.log(2) / sample["characters"]
        assert sample["bits_per_character"] == pytest.approx(bits)
    texts = cli("sample", trained, *options, "--no-echo", "--quiet").out
    assert texts == "".join(sample["text"] + "\n" for sample in samples)
    nothing = json.loads(cli("sample", trained, "--length", "0", "--json").out)
    assert (nothing["text"], nothing["bits_per_character"], nothing["ended_by"]) == ("", None, "length")


def test_a_sample_ends_with_its_line(cli: Cli, trained: Path) -> None:
    options = ("--temperature", "2", "--length", "3000", "--seed", "1", "--stop-at-line", "--json")
    sample = json.loads(cli("sample", trained, *options).out)
    assert sample["ended_by"] == "line"
    assert sample["text"].index("\n") == len(sample["text"]) - 1


def test_the_next_characters_with_their_probabilities(cli: Cli, trained: Path) -> None:
    found = json.loads(cli("sample", trained, "--prompt", "Die", "--top-next", "1000", "--json").out)
    probabilities = [entry["probability"] for entry in found]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    table = cli("sample", trained, "--prompt", "Die", "--top-next", "3").out.splitlines()
    assert len(table) == 3
    assert repr(found[0]["character"]) in table[0]
    assert f"{probabilities[0]:.4f}" in table[0]


def test_precision_is_the_users_choice(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "50", "--seed", "1")
    assert (
        cli("sample", trained, *fixed, "--precision", "fp32").out == cli("sample", trained, *fixed).out
    )  # it is small


# Conversations


def converse(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> Result:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return cli("sample", trained, "--interactive", "--length", "20", "--seed", "3")


def test_a_prompt_in_a_continuation_out(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = converse(cli, trained, monkeypatch, "Die", "Wölfe", ":again")
    expected = [cli("sample", trained, "--prompt", p, "--length", "20", "--seed", "3").out for p in ("Die", "Wölfe")]
    assert result.code == 0
    assert result.out == expected[0] + expected[1] + expected[1].removeprefix("Wölfe")


def test_settings_are_changed_by_commands(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (":length 5", ":temperature 0", ":stop-at-line on", ":stop x", ":settings", "Die", ":quit", "never read")
    result = converse(cli, trained, monkeypatch, *lines)
    greedy = cli("sample", trained, "--prompt", "Die", "--length", "5", "--temperature", "0").out
    assert result.out.endswith(greedy)
    for setting in ("length 5", "temperature 0.0", "stop_at_line True", "stop ('x',)", "seed 3"):
        assert setting in result.out
    assert "never" not in result.out


@pytest.mark.parametrize(
    "line", [":lenght 5", ":length many", ":top-p 2", ":stop-at-line maybe", "☃", ":", ":prompt x"]
)
def test_what_is_wrong_with_a_line_is_said_and_the_next_one_is_answered(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    result = converse(cli, trained, monkeypatch, line, "Die")
    assert result.code == 0
    assert 1 <= len(result.err.splitlines()) <= 2
    assert "Traceback" not in result.err
    assert result.out == cli("sample", trained, "--prompt", "Die", "--length", "20", "--seed", "3").out


def test_help_lists_the_commands(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ":again" in converse(cli, trained, monkeypatch, ":help").out


# Terminals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é 漢 👩\u200d🚀\t\n", "plain, é 漢 👩\u200d🚀\t\n"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("one\r\ntwo\rthree", "one\ntwo\\rthree"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
    ],
)
@pytest.mark.parametrize("piecewise", [False, True])
def test_a_terminal_is_not_commanded_by_what_a_model_writes(text: str, shown: str, piecewise: bool) -> None:
    stream = Terminal()
    output = terminal.Output(stream)
    for piece in text if piecewise else [text]:
        output.write(piece)
    assert stream.getvalue() == shown


def test_a_pipe_gets_what_the_model_wrote() -> None:
    stream = io.StringIO()
    terminal.Output(stream).write("\x1b[31m\r\x00")
    assert stream.getvalue() == "\x1b[31m\r\x00"


def test_an_encoding_that_lacks_a_character_gets_a_question_mark() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252")
    terminal.Output(stream).write("é漢")
    assert raw.getvalue() == "é?".encode("cp1252")
