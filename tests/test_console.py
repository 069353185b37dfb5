"""Whatever has become of standard error, nothing that is written for people ends a run."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from charlm import console as console_module
from charlm.console import console, open_bar
from charlm.training.lines import SparseLines
from tests.conftest import ROOT, SMALL


class OnlyWrite:
    """An object that people put in the place of standard error."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def isatty(self) -> bool:
        raise self.error

    flush = isatty  # type: ignore[assignment]


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "none": lambda: None,
    "only write": OnlyWrite,
    "closed": closed,
    "broken pipe": lambda: Broken(OSError(errno.EPIPE, "Broken pipe")),
    "terminal gone": lambda: Broken(OSError(errno.EIO, "Input/output error")),
    "closed file": lambda: Broken(ValueError("I/O operation on closed file")),
}


@pytest.mark.parametrize("name", STREAMS)
def test_console_never_raises(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    console.print_line("a line")
    assert not console.isatty()
    assert console.encoding
    with open_bar(total=3) as bar:
        bar.update()
    if name == "only write":
        assert sys.stderr.text == "a line\n"  # type: ignore[attr-defined]


def test_unencodable_characters_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(data, encoding="ascii"))
    console.print_line("2 × 384")
    assert data.getvalue() == b"2 \\xd7 384\n"


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("name", STREAMS)
def test_training_works_without_stderr(
    monkeypatch: pytest.MonkeyPatch, poem_file: Path, tmp_path: Path, name: str, quiet: bool
) -> None:
    import charlm

    monkeypatch.setattr(sys, "stderr", STREAMS[name]())
    settings = {"hidden_size": 8, "batch_size": 4, "sequence_length": 16, "threads": 1}
    run = charlm.train(poem_file, out=tmp_path / "run", max_steps=4, log_every=2, quiet=quiet, **settings)
    assert run.folder == tmp_path / "run"
    assert (run.folder / "step-00000004").is_dir()


SHELL = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")


def run_in_bash(folder: Path, text: Path, pipeline: str) -> None:
    """Train in a pipeline; the exit code of the training goes to the file ``status``."""
    train = f"{{ {sys.executable} -m charlm train {text} {' '.join(SMALL)}; echo $? >status; }}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-c", pipeline.format(train=train)], cwd=folder, env=environment, timeout=120, check=True)


@SHELL
@pytest.mark.parametrize(
    "pipeline",
    [
        "{train} 2>&1 >path | head -n 1 >/dev/null",
        "{train} 2>&1 >path | true",
        "{train} >path 2>&-",
        "{train} >path 2>/dev/full",
        "{train} >path 2>/dev/null <&-",
    ],
)
def test_any_shell_redirection_of_stderr_works(poem_file: Path, tmp_path: Path, pipeline: str) -> None:
    run_in_bash(tmp_path, poem_file, pipeline)
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "path").read_text() == "checkpoints/poem\n"
    assert (tmp_path / "checkpoints/poem/step-00000008").is_dir()


@SHELL
def test_closed_stdout_and_stderr(poem_file: Path, tmp_path: Path) -> None:
    run_in_bash(tmp_path, poem_file, "{train} 2>&1 | true")
    assert (tmp_path / "status").read_text() == "0\n"
    assert (tmp_path / "checkpoints/poem/step-00000008").is_dir()


def test_log_lines_are_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    lines, shown, samples = SparseLines(), [], []
    for second in range(91):
        now[0] = float(second)
        if lines.is_due(is_last=second == 90):
            shown.append((second, lines.time_left(second / 90)))
        if lines.is_sample_due():
            samples.append(second)
    assert [second for second, _ in shown] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [left for _, left in shown][:3] == ["", ", 1:20 left", ", 1:10 left"]
    assert shown[-1][1] == ""
    assert samples == [0, 60]


def test_notebook_shows_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = type(sys)("IPython")
    ipython.get_ipython = type("ZMQInteractiveShell", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setattr(sys, "stderr", OnlyWrite())
    assert console_module.is_notebook()
    assert console_module.is_watched()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not console_module.is_notebook()
