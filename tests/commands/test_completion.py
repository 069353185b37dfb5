"""The Tab key: what is offered where, in bash, zsh and fish, without importing torch."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from charlm import run_corpus, runs
from charlm.checkpoint import contents
from charlm.commands import COMMANDS, command_group, completion
from charlm.corpus import sources
from charlm.corpus.download import CORPORA
from tests.conftest import ROOT

SHELLS = ("bash", "zsh", "fish")
LISTED = {"file": "<files>", "dir": "<folders>"}  # by the shell itself


@pytest.fixture(autouse=True)
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with runs, texts and settings."""
    shutil.copytree(trained, tmp_path / "checkpoints/play")
    shutil.copytree(trained, tmp_path / "checkpoints/my run, 2")
    shutil.copytree(trained, tmp_path / "elsewhere/other")
    (tmp_path / "checkpoints/no run").mkdir()
    (tmp_path / "poem.txt").write_text("Die Wölfe")
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/wide.toml").write_text("")
    (tmp_path / "settings/notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(monkeypatch: pytest.MonkeyPatch, shell: str, *words: str) -> list[str]:
    """What click answers the shell, whose last word is incomplete."""
    typed = [re.sub(r"([ ,])", r"\\\1", word) for word in ("charlm", *words)]
    monkeypatch.setenv("COMP_WORDS", "\n".join(typed) if shell == "bash" else " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", typed[-1] if shell == "fish" else str(len(typed) - 1))
    found = get_completion_class(shell)
    assert found is not None
    answer = found(command_group, {}, "charlm", "_CHARLM_COMPLETE").complete()
    if shell == "zsh":
        lines = answer.split("\n")
        items = list(zip(lines[::3], lines[1::3], strict=True)) if answer else []
    else:
        items = [tuple(line.split(",", 1)) for line in answer.splitlines()]
    return [LISTED.get(kind, value.partition("\t")[0]) for kind, value in items]


PLAYS = ["checkpoints/my run, 2", "checkpoints/play"]
NAMES = [*CORPORA, "python", "<files>"]
PRESETS = ["default", "large", "tiny"]
DEVICES = ["auto", "cpu", "cuda", "mps"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # Runs
        *[((command, ""), PLAYS) for command in ("sample", "eval", "score", "info")],
        (("sample", "chec"), PLAYS),
        (("sample", "checkpoints/"), PLAYS),
        (("sample", "checkpoints/pl"), ["checkpoints/play"]),
        (("sample", "checkpoints/my r"), ["checkpoints/my run, 2"]),
        (("sample", "checkpoints/play/"), [f"checkpoints/play/step-0000000{step}" for step in (1, 2, 3, 4)]),
        (("sample", "elsewhere/"), ["elsewhere/other"]),
        (("sample", "elsew"), ["<folders>"]),
        (("sample", "settings/"), ["<folders>"]),
        (("info", "checkpoints/play", "checkpoints/m"), ["checkpoints/my run, 2"]),
        # Texts
        *[((*command, ""), NAMES) for command in (("train",), ("corpus", "inspect"), ("eval", "checkpoints/play"))],
        (("score", "checkpoints/play", "poem.txt", ""), NAMES),
        (("train", "po"), ["<files>"]),
        (("train", "poem.txt", "tiny"), ["tinyshakespeare", "<files>"]),
        (("eval", "checkpoints/play", "--threads", "1", "pyth"), ["python", "<files>"]),
        (("corpus", "get", ""), list(CORPORA)),
        (("corpus", "get", "te"), ["text8"]),
        (("sample", "checkpoints/play", "--prompt-file", ""), ["<files>"]),
        # Settings
        *[((command, "--config", ""), [*PRESETS, "mine.toml"]) for command in ("train", "bench")],
        (("train", "--config", "ti"), ["tiny"]),
        (("train", "--config", "settings/"), ["settings/wide.toml"]),
        (("train", "--config", "sett"), ["<files>"]),
        *[((*c, "--device", ""), DEVICES) for c in (("train",), ("bench",), ("sample",), ("eval",), ("score",))],
        (("train", "--device", "c"), ["cpu", "cuda"]),
        (("train", "--cell", "g"), ["gru"]),
        (("train", "--validation-fraction", "a"), ["auto"]),
        (("train", "--hidden-size", ""), ["auto"]),
        (("eval", "checkpoints/play", "--split", "t"), ["test"]),
        # Folders and files of other options
        (("train", "poem.txt", "--out", ""), ["<folders>"]),
        (("train", "--resume", ""), ["auto", *PLAYS]),
        (("train", "--resume", "checkpoints/p"), ["checkpoints/play"]),
        (("train", "poem.txt", "--init-from", ""), PLAYS),
        (("cache", "clear", "--cache-dir", ""), ["<folders>"]),
        (("eval", "checkpoints/play", "--context-plot", ""), ["<files>"]),
        # Checkpoints of the run already typed
        *[
            ((command, "checkpoints/play", "--checkpoint", ""), ["best", "latest", "1", "2", "3", "4"])
            for command in ("sample", "eval", "score", "info")
        ],
        (("sample", "checkpoints/my run, 2", "--checkpoint", "l"), ["latest"]),
        (("sample", "--checkpoint", ""), ["best", "latest"]),
        (("sample", "nowhere", "--checkpoint", ""), ["best", "latest"]),
        # Nothing to offer, and no error
        (("sample", "checkpoints/play", "--prompt", ""), []),
        (("train", "--embedding-size", ""), []),
        (("trian", ""), list(COMMANDS)),
        (("sample", "~nobody/"), ["<folders>"]),
        (("sample", "checkpoints/\udce9"), ["<folders>"]),
        (("sampl",), ["sample"]),
        (("corpus", ""), ["get", "inspect"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_offered(
    monkeypatch: pytest.MonkeyPatch, shell: str, words: tuple[str, ...], expected: list[str]
) -> None:
    assert offered(monkeypatch, shell, *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_value_after_an_equals_sign_is_part_of_its_word(monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    assert offered(monkeypatch, shell, "train", "--config=ti") == ["--config=tiny"]
    assert offered(monkeypatch, shell, "train", "--resume=checkpoints/p") == ["--resume=checkpoints/play"]
    assert offered(monkeypatch, shell, "train", "--out=ch") == ["--out=checkpoints/"]
    assert offered(monkeypatch, shell, "sample", "--prompt-file=po") == ["--prompt-file=poem.txt"]


def test_a_value_after_an_equals_sign_is_a_word_to_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(monkeypatch, "bash", "train", "--config", "=", "ti") == ["tiny"]
    assert offered(monkeypatch, "bash", "train", "--config", "=") == [*PRESETS, "mine.toml"]
    assert offered(monkeypatch, "bash", "sample", "--checkpoint", "=", "best", "checkpoints/p") == ["checkpoints/play"]


def test_a_run_without_a_checkpoint_is_offered_and_other_folders_are_not(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    (place / "checkpoints/begun").mkdir()
    for name in completion.RUN_FILES:
        (place / "checkpoints/begun" / name).touch()
    assert offered(monkeypatch, "bash", "sample", "checkpoints/") == ["checkpoints/begun", *PLAYS]


def test_a_corpus_says_whether_it_was_downloaded(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    (place / "data").mkdir()
    (place / "data/text8.txt").touch()
    items = completion.texts(None, None, "te")  # type: ignore[arg-type]
    assert [item.help for item in items if item.value == "text8"] == [CORPORA["text8"].description]
    (item, _) = completion.texts(None, None, "enw")  # type: ignore[arg-type]
    assert "charlm corpus get enwik8" in str(item.help)


def test_names_of_files_are_those_that_runs_have() -> None:
    assert completion.STEP.sub("", "step-00000004") == runs.CHECKPOINT_NAME.sub("", "step-00000004") == ""
    assert contents.MANIFEST == completion.MANIFEST
    assert {run_corpus.NAME, "config.toml"} == set(completion.RUN_FILES)
    assert sources.BUILT_IN == completion.BUILT_IN


def test_completion_imports_neither_torch_nor_numpy() -> None:
    program = """
import sys
from charlm.commands import main
try:
    main()
finally:
    sys.stdout.flush()
    if {"torch", "numpy"} & set(sys.modules):
        sys.exit("imported")
"""
    for words in ("sample ", "eval checkpoints/play --checkpoint ", "train --config "):
        environment = {
            "COMP_WORDS": f"charlm {words}",
            "COMP_CWORD": str(len(words.split(" "))),
            "PYTHONPATH": str(ROOT),
        }
        process = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **environment, "_CHARLM_COMPLETE": "bash_complete"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (process.returncode, process.stderr) == (0, "")
        assert process.stdout.strip()


# In the shells themselves

START = {
    "bash": ["bash", "--norc", "--noprofile"],
    "zsh": ["zsh", "-f"],
    "fish": ["fish", "--no-config", "--private"],
}
SETUP = {  # as the README has it
    "bash": 'eval "$(_CHARLM_COMPLETE=bash_source charlm)"',
    "zsh": 'eval "$(_CHARLM_COMPLETE=zsh_source charlm)"',
    "fish": "_CHARLM_COMPLETE=fish_source charlm | source",
}
TYPED = {  # with the Tab key, and what the command gets, but for a slash after a folder
    "sample checkpoints/pl\t": ["sample", "checkpoints/play"],
    "sample checkpoints/my\t": ["sample", "checkpoints/my run, 2"],
    "sample checkpoints/play --checkpoint la\t": ["sample", "checkpoints/play", "--checkpoint", "latest"],
    "train poe\t": ["train", "poem.txt"],
    "train tiny\t--conf\t ti\t": ["train", "tinyshakespeare", "--config", "tiny"],
    "train --config=ti\t": ["train", "--config=tiny"],
    "train --resume=checkpoints/p\t": ["train", "--resume=checkpoints/play"],
    "train --out elsew\t": ["train", "--out", "elsewhere"],
    "sample ~/elsewhere/oth\t": ["sample", "HOME/elsewhere/other"],
}


def type_into(shell: str, folder: Path, lines: list[str]) -> list[list[str]]:
    """Types lines into a shell on a terminal; what ``charlm`` was called with each time."""
    import pty  # there is none on Windows

    called = folder / "called"
    (folder / "bin").mkdir()
    program = folder / "bin/charlm"
    program.write_text(
        f'#!/bin/sh\nif [ -n "$_CHARLM_COMPLETE" ]; then exec "{sys.executable}" -m charlm; fi\n'
        f'{{ printf \'%s\\n\' "$@"; echo; }} >>"{called}"\n'
    )
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "TERM": "xterm",
    }
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execvpe(START[shell][0], START[shell], environment)
    found: list[list[str]] = []
    initialize = "autoload -Uz compinit; compinit -u -d zcompdump; " * (shell == "zsh")  # most people's does
    os.write(terminal, f"{initialize}{SETUP[shell]}\r".encode())
    screen = b""
    for line in lines:
        os.write(terminal, f"charlm {line}\r".encode())
        deadline = time.monotonic() + 60
        while len(found) <= lines.index(line) and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                screen += os.read(terminal, 4096)
            if called.exists():
                found = [call.split("\n") for call in called.read_text().split("\n\n")[:-1]]
        assert len(found) == lines.index(line) + 1, screen.decode(errors="replace")
    os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(pid, 0)
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_the_readme_says_how_to_set_it_up(shell: str) -> None:
    assert f"`{SETUP[shell]}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(s, marks=pytest.mark.skipif(os.name != "posix" or not shutil.which(s), reason=f"needs {s}"))
        for s in SHELLS
    ],
)
def test_the_tab_key_in_a_real_shell(shell: str, place: Path) -> None:
    shutil.rmtree(place / "settings")
    called = type_into(shell, place, list(TYPED))
    called = [[word.removesuffix("/") for word in words] for words in called]
    assert called == [[word.replace("HOME", str(place)) for word in words] for words in TYPED.values()]
