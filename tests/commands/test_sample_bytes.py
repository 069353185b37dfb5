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
def noise_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on random bytes."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "noise.bin").write_bytes(ANY)
    settings = {"unit": "byte", "hidden_size": 8, "embedding_size": 4, "sequence_length": 16, "max_steps": 1}
    layers = [SettingsSource("test", {**settings, "threads": 1, "sample_length": 0})]
    plan_training(TrainingRequest([str(folder / "noise.bin")], layers, out=folder / "run")).trainer(quiet=True).train()
    return folder / "run"


def test_pipe_and_file_receive_prompt_and_exact_bytes(
    cli: Cli, noise_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    command = ("sample", noise_run, "--prompt-file", "prompt.bin", "--length", "300", *HOT)
    result = cli(*command)
    assert (result.code, result.err) == (0, "")
    assert result.data.startswith(PROMPT)
    assert len(result.data) == len(PROMPT) + 300
    assert cli(*command, "--no-echo").data == result.data[len(PROMPT) :]
    written = cli(*command, "--output", "out.bin")
    assert (written.code, written.data) == (0, b"")
    assert (tmp_path / "out.bin").read_bytes() == result.data
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT)))
    assert cli("sample", noise_run, "--prompt-file", "-", "--length", "300", *HOT).data == result.data
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # bytes have no encoding
    assert cli(*command).data == result.data


def test_every_byte_can_be_written(cli: Cli, noise_run: Path, tmp_path: Path) -> None:
    data = cli("sample", noise_run, "--length", "4000", *HOT).data
    assert len(data) == 4000
    assert set(data) == set(range(256))
    for byte in (0x00, 0x0A, 0x0D, 0x1A, 0x80, 0xC3, 0xFF):
        (tmp_path / "prompt.bin").write_bytes(bytes([byte]))
        assert cli("sample", noise_run, "--prompt-file", "prompt.bin", "--length", "0").data == bytes([byte])


@pytest.mark.skipif(os.name == "nt", reason="arguments are Unicode there")
def test_prompt_and_stop_options_can_be_any_bytes(cli: Cli, noise_run: Path) -> None:
    free = cli("sample", noise_run, "--prompt", os.fsdecode(b"\xff\x80"), "--length", "500", *HOT).data
    assert free.startswith(b"\xff\x80")
    stop = next(free[i : i + 2] for i in range(100, 500) if min(free[i : i + 2]) >= 0x80)
    result = cli(
        "sample", noise_run, "--prompt", os.fsdecode(b"\xff\x80"), "--length", "500", "--stop", os.fsdecode(stop), *HOT
    )
    assert result.data == free[: free.index(stop, 2) + 2]


def test_stop_text_is_matched_as_utf_8_bytes(cli: Cli, noise_run: Path) -> None:
    fixed = ("sample", noise_run, "--length", "200000", "--temperature", "100", "--seed", "3", "--json")
    sample = json.loads(cli(*fixed, "--stop", "é").out)
    assert sample["finish_reason"] == "stop"
    data = base64.b64decode(sample["text_base64"])
    assert data.index("é".encode()) == len(data) - 2


def test_json_contains_base64_and_text(cli: Cli, noise_run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    options = ("--prompt-file", "prompt.bin", "--length", "200", "--num-samples", "3", *HOT)
    samples = [json.loads(line) for line in cli("sample", noise_run, *options, "--json").out.splitlines()]
    raw = b""
    for sample in samples:
        data = base64.b64decode(sample["text_base64"])
        assert base64.b64decode(sample["prompt_base64"]) == PROMPT
        assert len(data) == sample["bytes"] == 200
        assert sample["text"] == data.decode("utf-8", "replace")
        assert sample["prompt"] == PROMPT.decode("utf-8", "replace")
        raw += PROMPT + data
    assert cli("sample", noise_run, *options, "--quiet").data == raw


def test_character_level_json_has_no_base64(cli: Cli, trained: Path) -> None:
    assert "text_base64" not in json.loads(cli("sample", trained, "--length", "5", "--json").out)


def test_a_terminal_shows_text_and_escapes(cli: Cli, noise_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal())
        cli("sample", noise_run, "--prompt", "é\x1b", "--length", "300", *HOT)
        shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert shown.startswith("é\\x1b")
    assert "\\xff" in shown
    assert "\ufffd" not in shown
    assert "\x1b" not in shown
    assert shown.endswith("\n")


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
def test_early_closed_pipe_exits_silently(noise_run: Path) -> None:
    command = [sys.executable, "-m", "charlm", "sample", str(noise_run), "--length", "1000000", "--prompt", "\xff"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == "\xff".encode()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_interactive_reads_and_writes_any_bytes(cli: Cli, noise_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b":length 50\n\xff\x80\r\nabc\n:again\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    result = cli("sample", noise_run, "--interactive", *HOT)
    assert (result.code, result.err) == (0, "")
    first, second = (
        cli("sample", noise_run, "--prompt", prompt.decode("utf-8", "surrogateescape"), "--length", "50", *HOT).data
        for prompt in (b"\xff\x80\r", b"abc")
    )
    assert result.data == first + b"\n" + second + b"\n" + second.removeprefix(b"abc") + b"\n"


def test_python_api_returns_bytes(cli: Cli, noise_run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.bin").write_bytes(PROMPT)
    model = charlm.load(noise_run)
    prompt = PROMPT.decode("utf-8", "surrogateescape")
    samples = model.sample_many(prompt, length=100, num_samples=2, temperature=100.0, seed=1)
    raw = cli("sample", noise_run, "--prompt-file", "prompt.bin", "--length", "100", "--num-samples", "2", *HOT).data
    assert b"".join(PROMPT + sample.data for sample in samples) == raw


def test_character_level_data_is_utf_8_text(trained: Path) -> None:
    sample = charlm.load(trained).sample_many("Wölfe", length=100, seed=1)[0]
    assert sample.data == sample.text.encode()
