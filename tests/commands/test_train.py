"""``charlm train``: streams, settings from everywhere, and signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from charlm import runs
from tests.commands.conftest import Cli
from tests.conftest import ROOT, SMALL


def test_stdout_is_run_path_and_messages_go_to_stderr(cli: Cli, poem_file: Path) -> None:
    result = cli("train", poem_file, *SMALL)
    assert result.code == 0, result.err
    assert result.out == "checkpoints/poem\n"
    assert "step 8" in result.err
    assert "bits per character" in result.err
    assert "charlm sample checkpoints/poem" in result.err
    assert runs.load_model(Path(result.out.strip()), "latest").step == 8


def test_resume_of_complete_run_explains_how_to_continue(cli: Cli, poem_file: Path) -> None:
    assert cli("train", poem_file, *SMALL, "--out", "run", "--quiet").code == 0
    result = cli("train", "--resume", "run")
    assert result.code == 0, result.err
    assert "--max-steps 8." in result.err
    assert "larger --max-steps" in result.err


def test_counts_of_one_are_singular(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.txt").write_text(poem + "ЖЖ", encoding="utf-8")
    err = cli("train", "poem.txt", *SMALL, "--num-layers", "1", "--min-count", "3", "--document-per-file").err
    assert "1 document." in err
    assert "1 rare character (2 occurrences)" in err
    assert "1 distinct character." in err
    assert "1 layer × 16 units" in err


def test_quiet_prints_only_the_path(cli: Cli, poem_file: Path) -> None:
    result = cli("train", poem_file, *SMALL, "--out", "here/it is", "--quiet")
    assert (result.code, result.out, result.err) == (0, "here/it is\n", "")


def test_short_text_reports_smaller_batch(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc" * 15)
    result = cli("train", "short.txt", *SMALL)
    assert result.code == 0, result.err
    assert "batch size is 2 instead of 4" in result.err


def test_characters_missing_from_training_split_are_reported(cli: Cli, tmp_path: Path, poem: str) -> None:
    (tmp_path / "poem.txt").write_text(poem + "ЖЮЯ", encoding="utf-8")
    assert "training split only: 3 distinct characters." in cli("train", "poem.txt", *SMALL).err


def test_precedence_of_flag_environment_preset_and_default(
    cli: Cli, poem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.toml").write_text(
        "hidden_size = 10\nembedding_size = 10\nbatch_size = 3\nmax_steps = 2\nsample_length = 0\nthreads = 1\n"
    )
    monkeypatch.setenv("CHARLM_TRAIN_HIDDEN_SIZE", "11")
    monkeypatch.setenv("CHARLM_TRAIN_EMBEDDING_SIZE", "11")
    result = cli("train", poem_file, "--config", "my.toml", "--embedding-size", "12")
    assert result.code == 0, result.err
    settings = runs.load_model(Path(result.out.strip())).settings
    assert settings.embedding_size == 12
    assert settings.hidden_size == 11
    assert settings.batch_size == 3
    assert settings.sequence_length == 64


def test_config_toml_reproduces_run(cli: Cli, poem_file: Path) -> None:
    assert cli("train", poem_file, *SMALL, "--out", "one").code == 0
    assert cli("train", poem_file, "--config", "one/config.toml", "--out", "two").code == 0
    one, two = (runs.load_checkpoint(Path(run)) for run in ("one", "two"))
    assert one.model.settings == two.model.settings
    assert one.model.metrics == two.model.metrics


def test_resume_continues_and_reports_step(cli: Cli, poem_file: Path) -> None:
    assert cli("train", poem_file, *SMALL, "--keep-checkpoints", "9", "--save-every-minutes", "1e-9").code == 0
    result = cli("train", "--resume", "checkpoints/poem", "--max-steps", "10")
    assert result.code == 0, result.err
    assert "from step 8" in result.err
    assert runs.load_model(Path("checkpoints/poem"), "latest").step == 10
    result = cli("train", "--resume", "checkpoints/poem/step-00000006")
    assert result.code == 0, result.err
    assert "from step 6" in result.err
    assert "step-00000007" in result.err  # later ones go, and it is said
    assert runs.load_model(Path("checkpoints/poem"), "latest").step == 8


def test_resume_past_damaged_checkpoint_warns_and_sets_it_aside(cli: Cli, poem_file: Path) -> None:
    assert cli("train", poem_file, *SMALL, "--keep-checkpoints", "9", "--save-every-minutes", "1e-9").code == 0
    run = Path("checkpoints/poem")
    (run / "step-00000008" / "model.safetensors").write_bytes(b"")
    result = cli("train", "--resume", run)
    assert result.code == 0, result.err
    assert "step-00000008" in result.err
    assert "from step 7" in result.err
    assert (run / "step-00000008.damaged").is_dir()
    assert runs.load_model(run, "latest").step == 8


def test_overwrite_replaces_run_and_keeps_foreign_files(cli: Cli, poem_file: Path) -> None:
    assert cli("train", poem_file, *SMALL).code == 0
    run = Path("checkpoints/poem")
    (run / "notes.txt").write_text("mine")
    result = cli("train", poem_file, *SMALL, "--overwrite", "--max-steps", "3")
    assert result.code == 0, result.err
    assert (run / "notes.txt").read_text() == "mine"
    assert runs.list_checkpoints(run)[0].name == "step-00000003"  # the newest: those of the old run are gone
    steps = [json.loads(line)["step"] for line in (run / runs.METRICS).read_text().splitlines()]
    assert max(steps) == 3


STOPPING = [
    (getattr(signal, name), code)
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138))
    if hasattr(signal, name)
]


@pytest.mark.parametrize(("number", "code"), STOPPING)
def test_signal_saves_and_prints_resume_command(
    poem_file: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "charlm", "train", str(poem_file), *SMALL, "--max-steps", "1000000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    saved = runs.load_model(tmp_path / "checkpoints" / "poem", "latest")
    assert saved.step >= 2
    assert f"Stopped after step {saved.step}" in err
    assert "charlm train --resume checkpoints/poem" in err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_nohup_run_survives_hangup(poem_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "charlm", "train", str(poem_file), *SMALL, "--max-steps", "300"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2"):
                break
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "checkpoints/poem\n"
