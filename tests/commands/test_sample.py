"""``charlm sample``: text on standard output, all else on standard error."""

import errno
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from charlm import runs
from charlm.commands import stdio
from charlm.config import SettingsSource
from charlm.generation import sampler
from charlm.generation.sampler import Sampler
from charlm.model import matmul, stepper
from charlm.model.language_model import CharacterModel
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli, Result
from tests.conftest import ROOT


def test_output_is_prompt_plus_requested_characters(cli: Cli, trained: Path) -> None:
    result = cli("sample", trained, "--prompt", "Die W", "--length", "40")
    assert result.code == 0, result.err
    assert result.out.startswith("Die W")
    assert len(result.out) == 5 + 40 + 1
    assert result.err == ""


def test_same_seed_generates_same_text(cli: Cli, trained: Path) -> None:
    texts = [cli("sample", trained, "--length", "80", "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_sample_separators_go_to_stderr(cli: Cli, trained: Path) -> None:
    options = ("--length", "0", "--prompt", "Die", "--num-samples", "3", "--seed", "5")
    result = cli("sample", trained, *options)
    assert result.out == "Die\n" * 3
    assert [line.strip("- ") for line in result.err.splitlines()] == [f"{n} of 3, seed 5" for n in (1, 2, 3)]
    assert cli("sample", trained, *options, "--quiet").err == ""


def test_stop_option_can_be_repeated(cli: Cli, trained: Path) -> None:
    free = cli("sample", trained, "--seed", "1", "--length", "200").out
    first, second = free[60:62], free[30:32]
    stopped = cli("sample", trained, "--seed", "1", "--length", "200", "--stop", first, "--stop", second).out
    assert stopped == free[: min(free.find(first), free.find(second)) + 2] + "\n"
    refused = cli("sample", trained, "--stop", "")
    assert refused.code == 2
    assert "--stop: must not be empty" in refused.err


def test_run_step_or_checkpoint_folder_is_accepted(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "80", "--seed", "1")
    best = runs.load_model(trained, "best").step
    assert cli("sample", trained, *fixed).out == cli("sample", trained, "--checkpoint", best, *fixed).out
    first = cli("sample", trained, "--checkpoint", "1", *fixed)
    assert first.out == cli("sample", trained / "step-00000001", *fixed).out
    assert first.out != cli("sample", trained, "--checkpoint", "latest", *fixed).out


def test_corpus_and_run_settings_are_not_needed(cli: Cli, trained: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "elsewhere"
    checkpoint.mkdir()
    for path in (trained / "step-00000004").iterdir():
        (checkpoint / path.name).write_bytes(path.read_bytes())
    fixed = ("--length", "30", "--seed", "1")
    assert cli("sample", checkpoint, *fixed).out == cli("sample", trained / "step-00000004", *fixed).out


def test_characters_are_streamed(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        shown: ClassVar[list[str]] = []

        def flush(self) -> None:
            self.shown.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Terminal())
    cli("sample", trained, "--length", "30", "--prompt", "Die")
    text = Terminal.shown[-1]
    assert len(text) == len("Die") + 30 + len("\n")
    assert text[:4] in Terminal.shown  # nobody waits for more than the first character
    assert len(set(Terminal.shown)) >= 6
    assert all(text.startswith(shown) for shown in Terminal.shown)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
def test_broken_pipe_exits_silently(trained: Path) -> None:
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


def test_prompt_from_file_or_stdin(cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = ("--length", "30", "--seed", "1")
    expected = cli("sample", trained, "--prompt", "Die Träume\n", *fixed).out
    (tmp_path / "prompt.txt").write_text("Die Träume\n", encoding="utf-8", newline="")
    assert cli("sample", trained, "--prompt-file", "prompt.txt", *fixed).out == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Die Träume\n".encode())))
    assert cli("sample", trained, "--prompt-file", "-", *fixed).out == expected


def test_long_prompt_is_accepted(cli: Cli, trained: Path, tmp_path: Path, poem: str) -> None:
    (tmp_path / "prompt.txt").write_text(poem * 3, encoding="utf-8", newline="")
    result = cli("sample", trained, "--prompt-file", "prompt.txt", "--length", "5", "--no-echo", "--seed", "1")
    assert len(result.out) == 6


def test_prompt_is_echoed_unless_no_echo(cli: Cli, trained: Path) -> None:
    fixed = ("--prompt", "Die", "--length", "30", "--seed", "1")
    assert cli("sample", trained, *fixed).out == "Die" + cli("sample", trained, *fixed, "--no-echo").out


def test_unknown_prompt_characters_can_be_skipped(cli: Cli, trained: Path) -> None:
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
        (("--prompt-file", "latin.txt"), 1, "byte 3"),
        (("--prompt-file", "latin.txt", "--prompt", "a"), 2, "--prompt and --prompt-file"),
        (("--interactive", "--json"), 2, "--interactive cannot be used with --json."),
        (("--interactive", "--num-samples", "2"), 2, "--interactive cannot be used with --num-samples."),
        (("--ban", "x", "--allow", "x"), 2, "--allow and --ban"),
        (("--top-p", "0"), 2, "--top-p"),
        (("--min-p", "1.5"), 2, "--min-p"),
        (("--next-probabilities", "0"), 2, "--next-probabilities"),
        (("--unknown", "ignore"), 2, "--unknown"),
        (("--precision", "int4"), 2, "--precision"),
    ],
)
def test_invalid_options_are_rejected(
    cli: Cli, trained: Path, tmp_path: Path, options: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    result = cli("sample", trained, *options)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert len(result.err.splitlines()) <= 3


# What is drawn, and what is told of it


def test_ban_and_allow_restrict_characters(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "200", "--temperature", "3", "--seed", "1", "--no-echo")
    assert not set("eaiou ") & set(cli("sample", trained, "--ban", "eaiou ", *fixed).out)
    assert set(cli("sample", trained, "--allow", "abc", *fixed).out) <= set("abc\n")


def test_escapes_are_decoded_in_options(cli: Cli, trained: Path) -> None:
    fixed = ("--length", "300", "--temperature", "2", "--seed", "1", "--no-echo")
    free = cli("sample", trained, *fixed).out
    assert "\n" in free[:-1]
    assert cli("sample", trained, *fixed, "--stop", r"\n").out == free[: free.index("\n") + 1] + "\n"
    assert "\n" not in cli("sample", trained, *fixed, "--ban", r"\n").out[:-1]
    assert set(cli("sample", trained, *fixed, "--allow", r"\n").out) == {"\n"}


@pytest.mark.parametrize("option", [("--top-k", "1"), ("--top-p", "1e-9"), ("--min-p", "1"), ("--temperature", "0")])
def test_strictest_filters_give_likeliest_character(cli: Cli, trained: Path, option: tuple[str, str]) -> None:
    greedy = cli("sample", trained, "--temperature", "0", "--length", "50", "--seed", "1").out
    assert cli("sample", trained, *option, "--length", "50", "--seed", "2").out == greedy


def test_json_contains_seed_and_log_probability(cli: Cli, trained: Path) -> None:
    options = ("--prompt", "Die", "--num-samples", "3", "--length", "40", "--seed", "7", "--stop", "e")
    result = cli("sample", trained, *options, "--json")
    samples = [json.loads(line) for line in result.out.splitlines()]
    assert [sample["index"] for sample in samples] == [0, 1, 2]
    for sample in samples:
        assert (sample["seed"], sample["prompt"]) == (7, "Die")
        assert sample["characters"] == len(sample["text"])
        assert sample["finish_reason"] == ("stop" if sample["text"].endswith("e") else "length")
        bits = -sample["log_probability_nats"] / math.log(2) / sample["characters"]
        assert sample["bits_per_character"] == pytest.approx(bits)
    texts = cli("sample", trained, *options, "--no-echo", "--quiet").out
    assert texts == "".join(sample["text"] + "\n" for sample in samples)
    nothing = json.loads(cli("sample", trained, "--length", "0", "--json").out)
    assert (nothing["text"], nothing["bits_per_character"], nothing["finish_reason"]) == ("", None, "length")


def test_stop_at_newline_ends_sample(cli: Cli, trained: Path) -> None:
    options = ("--temperature", "2", "--length", "3000", "--seed", "1", "--stop-at-newline", "--json")
    sample = json.loads(cli("sample", trained, *options).out)
    assert sample["finish_reason"] == "newline"
    assert sample["text"].index("\n") == len(sample["text"]) - 1


def test_next_probabilities_option(cli: Cli, trained: Path) -> None:
    found = json.loads(cli("sample", trained, "--prompt", "Die", "--next-probabilities", "1000", "--json").out)
    probabilities = [entry["probability"] for entry in found]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    table = cli("sample", trained, "--prompt", "Die", "--next-probabilities", "3").out.splitlines()
    assert len(table) == 3
    assert repr(found[0]["character"]) in table[0]
    assert f"{probabilities[0]:.4f}" in table[0]


def test_precision_option(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def eight_bits(weight: Tensor, bias: Tensor, hidden: Tensor) -> matmul.MatMul:
        made.append(weight.numel())
        return matmul.torch_matmul(weight, bias, hidden)

    monkeypatch.setattr(stepper, "samples_natively", lambda *_: False)
    monkeypatch.setattr(matmul, "INT8_MIN_WEIGHTS", 1)
    monkeypatch.setattr(matmul, "int8_matmul", eight_bits)
    assert cli("sample", trained, "--length", "5", "--precision", "fp32").code == 0
    assert not made
    assert cli("sample", trained, "--length", "5").code == 0
    assert made


# Conversations


def run_interactive(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, options: tuple[str, ...] = ()
) -> Result:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return cli("sample", trained, "--interactive", "--length", "20", "--seed", "3", *options)


def test_interactive_continues_prompt(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_interactive(cli, trained, monkeypatch, "Die", "Wölfe", ":again")
    expected = [cli("sample", trained, "--prompt", p, "--length", "20", "--seed", "3").out for p in ("Die", "Wölfe")]
    assert result.code == 0
    assert result.out == expected[0] + expected[1] + expected[1].removeprefix("Wölfe")


def test_interactive_commands_change_settings(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (":length 5", ":temperature 0", ":stop-at-newline on", ":stop x", ":settings", "Die", ":quit", "never read")
    result = run_interactive(cli, trained, monkeypatch, *lines)
    greedy = cli("sample", trained, "--prompt", "Die", "--length", "5", "--temperature", "0").out
    assert result.out.endswith(greedy)
    for setting in (":length 5", ":temperature 0.0", ":stop-at-newline on", ":stop x", ":seed 3"):
        assert f"{setting}\n" in result.out
    assert "never" not in result.out


@pytest.mark.parametrize(
    "line", [":lenght 5", ":length many", ":top-p 2", ":stop-at-newline maybe", "☃", ":", ":prompt x"]
)
def test_interactive_recovers_after_invalid_line(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    result = run_interactive(cli, trained, monkeypatch, line, "Die")
    assert result.code == 0
    assert 1 <= len(result.err.splitlines()) <= 2
    assert "Traceback" not in result.err
    assert result.out == cli("sample", trained, "--prompt", "Die", "--length", "20", "--seed", "3").out


def test_interactive_error_quotes_typed_value(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_interactive(cli, trained, monkeypatch, ":top-p 2")
    assert result.err.startswith(":top-p: must be at most 1 (got 2).")


def test_interactive_help_lists_commands(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ":again" in run_interactive(cli, trained, monkeypatch, ":help").out


def test_interactive_starts_with_prompt_option(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [cli("sample", trained, "--prompt", p, "--length", "20", "--seed", "3").out for p in ("Träume", "Die")]
    result = run_interactive(cli, trained, monkeypatch, "Die", options=("--prompt", "Träume"))
    assert result.out == "".join(expected)
    shorter = run_interactive(cli, trained, monkeypatch, "Die", options=("--prompt", "Träume", "--no-echo"))
    assert shorter.out == expected[0].removeprefix("Träume") + expected[1].removeprefix("Die")


def test_spaces_and_newlines_in_ban_allow_and_stop(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (r":ban  e\n", ":allow a ", r":stop \n ", ":length  7 ", ":settings")
    said = run_interactive(cli, trained, monkeypatch, *lines).out
    for setting in (r":ban  e\n", ":allow a ", r":stop \n ", ":length 7"):
        assert f"{setting}\n" in said


def test_interactive_reads_terminal_until_eof(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["Die", ":again"]

    def typed(question: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", typed)
    result = cli("sample", trained, "--interactive", "--length", "20", "--seed", "3")
    text = cli("sample", trained, "--prompt", "Die", "--length", "20", "--seed", "3").out
    assert (result.code, result.out) == (0, text + text.removeprefix("Die"))
    assert ":help" in result.err
    assert result.err.endswith("\n\n")  # the prompt line that Ctrl-D left


def test_interrupt_ends_text_but_not_session(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sampler.stream

    def interrupted(self: Sampler) -> Iterator[str]:
        monkeypatch.setattr(Sampler, "stream", whole)
        yield "ab"
        raise KeyboardInterrupt

    monkeypatch.setattr(Sampler, "stream", interrupted)
    result = run_interactive(cli, trained, monkeypatch, "Die", "Die")
    assert result.code == 0
    assert result.out == "Dieab\n" + cli("sample", trained, "--prompt", "Die", "--length", "20", "--seed", "3").out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# Models of bytes


@pytest.fixture(scope="session")
def byte_run(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    settings = {"unit": "byte", "hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0})]
    plan_training(TrainingRequest([str(folder / "poem.txt")], layers, out=folder / "run")).trainer(quiet=True).train()
    return folder / "run"


def test_byte_level_sample_reports_bytes(cli: Cli, byte_run: Path) -> None:
    found = json.loads(cli("sample", byte_run, "--next-probabilities", "256", "--json").out)
    assert sorted(entry["byte"] for entry in found) == list(range(256))
    number = cli("sample", byte_run, "--next-probabilities", "1").out.split()[-1]
    assert int(number) == found[0]["byte"]
    sample = json.loads(cli("sample", byte_run, "--length", "9", "--json").out)
    assert sample["bytes"] == 9
    assert sample["bits_per_byte"] > 0
    refused = cli("sample", byte_run, "--ban", "é")
    assert refused.code == 2
    assert "bytes" in refused.err


def test_byte_level_prompt_can_be_any_bytes(
    cli: Cli, byte_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    whole = sampler.prefill

    def noted(model: CharacterModel, ids: Tensor) -> Any:
        prompts.append(ids[:, 0].tolist())
        return whole(model, ids)

    monkeypatch.setattr(sampler, "prefill", noted)
    (tmp_path / "prompt").write_bytes(b"\xef\xbb\xbf\xff\0")
    for options in ((), ("--json",)):
        assert cli("sample", byte_run, "--prompt-file", "prompt", "--length", "5", *options).code == 0
    assert prompts == [[256, 0xEF, 0xBB, 0xBF, 0xFF, 0]] * 2


def test_byte_order_mark_is_removed_from_prompt(cli: Cli, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfDie")
    fixed = ("--length", "30", "--seed", "1")
    expected = cli("sample", trained, "--prompt", "Die", *fixed).out
    assert cli("sample", trained, "--prompt-file", "prompt.txt", *fixed).out == expected


# Streams that are closed or broken


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_tolerated(trained: Path, closed: str, tmp_path: Path) -> None:
    command = f'exec "{sys.executable}" -m charlm sample "{trained}" --interactive --prompt Die --length 5 {closed}'
    process = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("Die") == (">&-" not in closed.split())
    assert not list(tmp_path.iterdir())  # no log of a traceback


def test_windows_einval_is_treated_as_broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    led_away: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda new, old: led_away.append(old))
    with stdio.ignore_broken_pipe():
        raise OSError(errno.EINVAL, "Invalid argument")
    assert len(led_away) == 1
    with pytest.raises(OSError, match="No space"), stdio.ignore_broken_pipe():
        raise OSError(errno.ENOSPC, "No space left")
