"""``charlm score``: a line a character, or a page."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli
from tests.conftest import ROOT


def test_one_line_per_character_sums_to_exact_loss(cli: Cli, trained: Path, poem: str) -> None:
    result = cli("score", trained, "--threads", "1")
    assert result.code == 0, result.err
    assert result.err == ""
    scores = [json.loads(line) for line in result.out.splitlines()]
    assert "".join(score["character"] for score in scores) == poem[-408:]
    assert all(score.keys() == {"character", "log_probability", "rank"} for score in scores)
    evaluated = json.loads(cli("eval", trained, "--json").out)
    total = -sum(score["log_probability"] for score in scores)
    assert total == pytest.approx(evaluated["nats_per_character"] * evaluated["characters"], rel=1e-6)
    ranks = [score["rank"] for score in scores]
    assert min(ranks) == 1
    assert 1 < max(ranks) <= len(set(poem))


def test_score_of_file_pipe_and_other_encoding(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = 'Die Wölfe, "été".\n'.replace('"', "")
    (tmp_path / "utf-8.txt").write_bytes(line.encode())
    (tmp_path / "latin.txt").write_bytes(line.encode("latin-1"))
    expected = cli("score", trained, "utf-8.txt")
    assert expected.out.isascii()
    assert len(expected.out.splitlines()) == len(line)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    assert cli("score", trained, "-") == expected
    assert cli("score", trained, "latin.txt", "--encoding", "latin-1") == expected


def test_checkpoint_option_selects_checkpoint(cli: Cli, trained: Path) -> None:
    first = cli("score", trained, "--checkpoint", "1")
    assert first.out == cli("score", trained / "step-00000001").out
    assert first.out != cli("score", trained, "--checkpoint", "latest").out


def test_byte_level_score_has_one_line_per_byte(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    settings = {
        "unit": "byte",
        "hidden_size": 8,
        "embedding_size": 4,
        "sequence_length": 16,
        "max_steps": 1,
        "threads": 1,
        "sample_length": 0,
        "test_fraction": 0.05,
    }
    plan_training(TrainingRequest([str(poem_file)], [SettingsSource("test", settings)], out=tmp_path / "run")).trainer(
        quiet=True
    ).train()
    (tmp_path / "any").write_bytes(b"\xff\0\xc3\xa9")
    scores = [json.loads(line) for line in cli("score", "run", "any").out.splitlines()]
    assert [score["byte"] for score in scores] == [255, 0, 0xC3, 0xA9]
    assert cli("score", "run", "any", "--html", "any.html").code == 0
    assert "4 bytes" in (tmp_path / "any.html").read_text(encoding="utf-8")
    part = cli("score", "run", "--split", "test").out.splitlines()
    assert len(part) == len(poem_file.read_bytes()) - int(len(poem_file.read_bytes()) * 0.95)


def test_html_replaces_json_lines(cli: Cli, trained: Path, tmp_path: Path) -> None:
    result = cli("score", trained, "--html", "page.html")
    assert result.code == 0, result.err
    assert result.out == "page.html\n"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    bits = json.loads(cli("eval", trained, "--json").out)["bits_per_character"]
    assert f"408 characters, {bits:.4f} bits" in page
    assert "the validation split of poem" in page


def test_progress_bar_on_terminal_unless_quiet(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "scoring:   0%" in cli("score", trained).err
    assert cli("score", trained, "--quiet").err == ""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)  # the lines are in its way there
    assert cli("score", trained).err == ""


def test_scores_with_documents_and_unknown_characters_sum_to_loss(cli: Cli, tmp_path: Path, poem_file: Path) -> None:
    settings = {
        "hidden_size": 8,
        "embedding_size": 4,
        "sequence_length": 16,
        "max_steps": 1,
        "threads": 1,
        "sample_length": 0,
        "min_count": 30,
        "document_separator": "\n",
    }
    plan_training(TrainingRequest([str(poem_file)], [SettingsSource("test", settings)], out=tmp_path / "run")).trainer(
        quiet=True
    ).train()
    (tmp_path / "snow.txt").write_text("☃ fällt.\nDie Wölfe.\n", encoding="utf-8")
    scores = [json.loads(line) for line in cli("score", "run", "snow.txt").out.splitlines()]
    assert scores[0]["character"] == "☃"
    evaluated = json.loads(cli("eval", "run", "snow.txt", "--json").out)
    assert evaluated["unknown_characters"] > 0
    total = -math.fsum(score["log_probability"] for score in scores)
    assert total == pytest.approx(evaluated["nats_per_character"] * len(scores), rel=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes that break")
def test_broken_pipe_exits_silently(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("Die Schafe " * 10_000)
    command = [sys.executable, "-m", "charlm", "score", str(trained), str(tmp_path / "long.txt")]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"character": "D"')
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
