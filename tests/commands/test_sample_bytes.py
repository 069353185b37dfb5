"""A byte-level model gives its bytes back."""

import base64
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import charlm
from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli
from tests.conftest import ROOT

ANY = bytes(random.Random(1).randbytes(20_000))
PROMPT = b"\xef\xbb\xbf\xff\x00\r\n\x1b\xed\xb2\x80\xf0\x9f\xc3"  # a byte order mark, a NUL, halves of characters
HOT = ("--temperature", "100", "--seed", "1")


@pytest.fixture(scope="session")
def of_noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on random bytes."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "noise.bin").write_bytes(ANY)
    settings = {"unit": "byte", "hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0})]
    plan_training(TrainingRequest([str(folder / "noise.bin")], layers, out=folder / "run")).trainer(quiet=True).train()
    return folder / "run"


def test_a_pipe_and_a_file_get_the_prompt_and_exactly_the_bytes_asked_for(
    cli: Cli, of_noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    command = ("sample", of_noise, "--prompt-file", "prompt.bin", "--length", "300", *HOT)
    result = cli(*command)
    assert (result.code, result.err) == (0, "")
    assert result.data.startswith(PROMPT)
    assert len(result.data) == len(PROMPT) + 300
    assert cli(*command, "--no-echo").data == result.data[len(PROMPT) :]
    written = cli(*command, "--output", "out.bin")
    assert (written.code, written.data) == (0, b"")
    assert (tmp_path / "out.bin").read_bytes() == result.data
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT)))
    assert cli("sample", of_noise, "--prompt-file", "-", "--length", "300", *HOT).data == result.data
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # bytes have no encoding
    assert cli(*command).data == result.data


def test_every_byte_can_be_written(cli: Cli, of_noise: Path, tmp_path: Path) -> None:
    data = cli("sample", of_noise, "--length", "4000", *HOT).data
    assert len(data) == 4000
    assert set(data) == set(range(256))
    for byte in (0x00, 0x0A, 0x0D, 0x1A, 0x80, 0xC3, 0xFF):
        (tmp_path / "prompt.bin").write_bytes(bytes([byte]))
        assert cli("sample", of_noise, "--prompt-file", "prompt.bin", "--length", "0").data == bytes([byte])


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode there")
def test_a_prompt_and_a_stop_text_on_the_command_line_may_be_any_bytes(cli: Cli, of_noise: Path) -> None:
    free = cli("sample", of_noise, "--prompt", os.fsdecode(b"\xff\x80"), "--length", "500", *HOT).data
    assert free.startswith(b"\xff\x80")
    stop = next(free[i : i + 2] for i in range(100, 500) if min(free[i : i + 2]) >= 0x80)
    result = cli(
        "sample", of_noise, "--prompt", os.fsdecode(b"\xff\x80"), "--length", "500", "--stop", os.fsdecode(stop), *HOT
    )
    assert result.data == free[: free.index(stop, 2) + 2]


def test_a_stop_text_ends_within_bytes_and_is_spelled_in_utf_8(cli: Cli, of_noise: Path) -> None:
    fixed = ("sample", of_noise, "--length", "200000", "--temperature", "100", "--seed", "3", "--json")
    sample = json.loads(cli(*fixed, "--stop", "é").out)
    assert sample["finish_reason"] == "stop"
    data = base64.b64decode(sample["text_base64"])
    assert data.index("é".encode()) == len(data) - 2


def test_json_has_the_bytes_as_base64_and_a_view_of_them_as_text(cli: Cli, of_noise: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    options = ("--prompt-file", "prompt.bin", "--length", "200", "--num-samples", "3", *HOT)
    samples = [json.loads(line) for line in cli("sample", of_noise, *options, "--json").out.splitlines()]
    raw = b""
    for sample in samples:
        data = base64.b64decode(sample["text_base64"])
        assert base64.b64decode(sample["prompt_base64"]) == PROMPT
        assert len(data) == sample["bytes"] == 200
        assert sample["text"] == data.decode("utf-8", "replace")
        assert sample["prompt"] == PROMPT.decode("utf-8", "replace")
        raw += PROMPT + data
    assert cli("sample", of_noise, *options, "--quiet").data == raw


def test_a_model_of_characters_has_no_base64(cli: Cli, trained: Path) -> None:
    assert "text_base64" not in json.loads(cli("sample", trained, "--length", "5", "--json").out)


def test_a_terminal_shows_text_and_escapes(cli: Cli, of_noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal())
        cli("sample", of_noise, "--prompt", "é\x1b", "--length", "300", *HOT)
        shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("é\\x1b")
    assert "\\xff" in shown
    assert "\ufffd" not in shown
    assert "\x1b" not in shown
    assert shown.endswith("\n")


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
def test_a_pipe_that_is_closed_early_ends_it_quietly(of_noise: Path) -> None:
    command = [sys.executable, "-m", "charlm", "sample", str(of_noise), "--length", "1000000", "--prompt", "\xff"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == "\xff".encode()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_a_conversation_takes_and_gives_any_bytes(cli: Cli, of_noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b":length 50\n\xff\x80\r\nabc\n:again\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    result = cli("sample", of_noise, "--interactive", *HOT)
    assert (result.code, result.err) == (0, "")
    first, second = (
        cli("sample", of_noise, "--prompt", prompt.decode("utf-8", "surrogateescape"), "--length", "50", *HOT).data
        for prompt in (b"\xff\x80\r", b"abc")
    )
    assert result.data == first + b"\n" + second + b"\n" + second.removeprefix(b"abc") + b"\n"


def test_python_gives_the_bytes_too(cli: Cli, of_noise: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    model = charlm.load(of_noise)
    prompt = PROMPT.decode("utf-8", "surrogateescape")
    samples = model.sample_many(prompt, length=100, num_samples=2, temperature=100.0, seed=1)
    raw = cli("sample", of_noise, "--prompt-file", "prompt.bin", "--length", "100", "--num-samples", "2", *HOT).data
    assert b"".join(PROMPT + sample.data for sample in samples) == raw


def test_the_data_of_a_model_of_characters_is_its_text_in_utf_8(trained: Path) -> None:
    sample = charlm.load(trained).sample_many("Wölfe", length=100, seed=1)[0]
    assert sample.data == sample.text.encode()
