"""Names are what people choose: in any bytes, as long as names can be, and elsewhere the next day."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.summary.writer import record_writer

from charlm import files, runs
from charlm.config import SettingsSource, TrainSettings, read_toml, resolve
from charlm.errors import CharlmWarning, UsageError
from charlm.records import to_json
from charlm.run_corpus import CorpusFile
from charlm.summary import summarize
from charlm.training.found import default_run_folder, portable_name
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.conftest import ROOT, SMALL
from tests.training.conftest import SETTINGS, Make, make_trainer

__all__ = ["make_trainer"]  # a fixture

UNUSUAL_NAMES = {
    "latin-1": b"\xe9t\xe9",
    "spaces": b" a  b ",
    "line end": b"a\nb",
    "escape sequence": b"\x1b[31mred\x1b[0m",
    "quotes": b'it\'s "so"',
    "pattern": b"[a]*?",
    "dash": b"-x",
    "emoji": "\N{SNOWMAN}\U0001f600".encode(),
    "not a character": b"\xff\xfe",
    "long": b"n" * 251,
    "like a checkpoint": b"step-00000001",
    "like a preset": b"tiny",
    "percent": b"%s %d {0}",
}
each_unusual_name = pytest.mark.parametrize(
    "name", [os.fsdecode(name) for name in UNUSUAL_NAMES.values()], ids=list(UNUSUAL_NAMES)
)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="file systems that take any bytes")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@on_linux
@each_unusual_name
def test_texts_and_runs_can_have_any_name(poem: str, name: str) -> None:
    text, run = Path("texts") / f"{name}.txt", Path("runs") / name
    text.parent.mkdir()
    text.write_text(poem, encoding="utf-8")
    plan = plan_training(TrainingRequest([str(text)], [SettingsSource("test", {**SETTINGS, "max_steps": 2})], out=run))
    list(plan.startup_messages())
    plan.train(quiet=True)
    assert CorpusFile.read(run).files[0].path == str(text)
    assert any(path.name.startswith("events.out.tfevents") and path.stat().st_size for path in run.iterdir())
    plan_training(TrainingRequest([], [SettingsSource("test", {"max_steps": 4})], resume=str(run))).train(quiet=True)
    assert runs.load_model(run, "latest").step == 4
    assert to_json(summarize(run))["corpus"]["files"][0]["path"] == str(Path.cwd() / text)
    layers = [SettingsSource("test", {**SETTINGS, "max_steps": 2, "init_from": str(run)})]
    plan_training(TrainingRequest([str(text)], layers, out=Path("tuned"))).train(quiet=True)
    assert runs.load_model(Path("tuned")).settings.init_from == str(run)
    assert plan_training(TrainingRequest([], [], resume="tuned")).settings.init_from == str(run)
    same = resolve(TrainSettings, [SettingsSource("", read_toml(Path("tuned/config.toml")))])
    assert Path.cwd() / same.init_from == Path.cwd() / run


@on_linux
@pytest.mark.parametrize(
    "name", [UNUSUAL_NAMES["latin-1"], UNUSUAL_NAMES["escape sequence"]], ids=["latin-1", "escape sequence"]
)
def test_run_path_is_printed_as_raw_bytes(tmp_path: Path, poem_file: Path, name: bytes) -> None:
    def charlm(*arguments: Any) -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "charlm", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)

    trained = charlm("train", str(poem_file), *SMALL, "--out", name)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == name + b"\n"
    missing = charlm("train", b"missing " + name)
    assert missing.returncode == 2
    assert b"\x1b" not in missing.stderr
    assert b"missing" in missing.stderr


def test_file_named_dash_is_read_as_file(poem: str) -> None:
    Path("-").write_text(poem, encoding="utf-8")
    for names in (["./-"], ["."]):
        corpus = plan_training(TrainingRequest(names, [SettingsSource("test", SETTINGS)], out=Path("run"))).corpus
        assert len(corpus.text) == len(poem)
        assert corpus.encoded.files[0].path == str(Path.cwd() / "-")


def test_file_with_longest_name_can_be_replaced() -> None:
    for name in ("n" * 255, "\N{SNOWMAN}" * 85):
        files.write_file(Path(name), b"one")
        files.write_file(Path(name), b"two")
        assert Path(name).read_bytes() == b"two"
        files.write_folder(Path(f"{name[:-1]}d"), {"file": b"1"})
        files.remove_folder(Path(f"{name[:-1]}d"))


@pytest.mark.parametrize("ask", ["out", "resume", "init_from", "text"])
def test_too_long_name_is_rejected(poem_file: Path, ask: str) -> None:
    name = "n" * 256
    layers = [SettingsSource("test", {**SETTINGS, **({"init_from": name} if ask == "init_from" else {})})]
    asked: dict[str, Any] = {"out": {"out": Path(name)}, "resume": {"resume": name}}.get(ask, {})
    with pytest.raises(UsageError, match=os.strerror(errno.ENAMETOOLONG)):
        plan_training(TrainingRequest([name if ask == "text" else str(poem_file)], layers, **asked))


# Default names of runs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, f"{name}_") for name in ("con", "AUX", "Nul", "prn", "com1", "LPT9", "com²", "CONIN$")],
        ("con.old", "con_.old"),
        ("con .old", "con _.old"),
        ("console", "console"),
        ("com10", "com10"),
        ("poem. .", "poem"),
        ("...", "corpus"),
        (".hidden", ".hidden"),
        ('a<b>c:d"e|f?g*h\\i', "a_b_c_d_e_f_g_h_i"),
        ("a\nb\x1b", "a_b_"),
        ("été", "été"),
    ],
)
def test_default_run_name_is_portable(name: str, expected: str) -> None:
    assert portable_name(name) == expected
    assert portable_name(expected) == expected


@pytest.mark.parametrize("name", ["aux.txt", "..txt", "...txt", "con.txt.gz", "con.tar.txt"])
def test_default_run_is_its_own_folder(name: str) -> None:
    run = default_run_folder([name])
    assert run.parent == Path("checkpoints")
    assert run.name.partition(".")[0].lower() not in ("aux", "con")
    assert (Path.cwd() / run).resolve() == Path.cwd() / "checkpoints" / run.name


# Moved afterwards


def test_moved_folder_of_texts_and_runs_resumes(poem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("project", "project/texts"):
        Path(folder).mkdir()
    for number in range(3):
        Path(f"project/texts/{number}.txt").write_text(poem, encoding="utf-8")
    monkeypatch.chdir("project")
    plan_training(TrainingRequest(["texts"], [SettingsSource("test", {**SETTINGS, "max_steps": 2})])).train(quiet=True)
    monkeypatch.chdir(tmp_path)
    shutil.move("project", "elsewhere")
    run, empty = Path("elsewhere/checkpoints/texts"), tmp_path / "empty cache"
    plan_training(
        TrainingRequest([], [SettingsSource("test", {"max_steps": 4})], resume=str(run), cache_folder=empty)
    ).train(quiet=True)
    assert runs.load_model(run, "latest").step == 4
    shutil.move("elsewhere/checkpoints/texts", "alone")  # its record now says where the texts are
    plan_training(
        TrainingRequest(
            [], [SettingsSource("test", {"max_steps": 6})], resume="alone", cache_folder=tmp_path / "empty too"
        )
    ).train(quiet=True)
    shutil.rmtree("elsewhere")
    plan_training(
        TrainingRequest([], [SettingsSource("test", {"max_steps": 8})], resume="alone", cache_folder=empty)
    ).train(quiet=True)
    assert runs.load_model(Path("alone"), "latest").step == 8


# TensorBoard


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("a\nb"), MemoryError(), OSError(5, "no")], ids=repr)
@pytest.mark.parametrize("where", ["write", "flush", "start"])
def test_tensorboard_writer_errors_warn_once(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    if where == "start":
        monkeypatch.setattr("charlm.training.tensorboard.SummaryWriter", fail)
    else:
        monkeypatch.setattr(record_writer.RecordWriter, where, fail)
    trainer = make_trainer()
    with pytest.warns(CharlmWarning, match="TensorBoard") as caught:
        trainer.train()
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert runs.load_model(trainer.run, "latest").step == 12


def test_failure_in_unrelated_thread_is_not_caught(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda details: seen.append(details.exc_value))
    trainer = make_trainer(max_steps=2)
    step = trainer.train_step

    def step_beside_a_failure() -> None:
        other = threading.Thread(target=lambda: Path("missing").read_bytes())
        other.start()
        other.join()
        step()

    monkeypatch.setattr(trainer, "train_step", step_beside_a_failure)
    trainer.train()
    assert [type(error) for error in seen] == [FileNotFoundError] * 2


def test_corpus_json_is_valid_utf_8_for_any_names(poem: str) -> None:
    name = os.fsdecode(b"\xe9.txt")
    Path(name).write_text(poem, encoding="utf-8")
    plan_training(TrainingRequest([name], [SettingsSource("test", SETTINGS)], out=Path("run"))).trainer(quiet=True)
    content = json.loads(Path("run/corpus.json").read_bytes().decode("utf-8"))
    assert content["files"][0]["path"] == name
