"""``charlm plot``: learning curves of runs as a picture."""

import json
import math
import sys
from pathlib import Path

import pytest

from charlm.reports.learning_curves import read_curve
from tests.commands.conftest import Cli

STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def write_run(folder: Path, unit: str = "character", steps: int = 4, exact: bool = True) -> Path:
    """A run folder with nothing but its settings and what it logged: 100 characters and 6 seconds a step."""
    from charlm.config import TrainSettings, to_toml

    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(TrainSettings()))
    entries: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = 3.0 / step
        entries.append(
            {
                "step": step,
                "loss_train": loss,
                f"bits_per_{unit}_train": loss / math.log(2),
                f"throughput_{unit}s_per_second": 100 / 6,
                "progress_training_seconds": 6.0 * step,
            }
        )
        if step % 2 == 0:
            entries.append({"step": step, "loss_validation": loss + 0.5})
    if exact:
        entries.append({"step": steps, "loss_validation_exact": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.mark.parametrize("suffix", STARTS)
def test_several_runs_are_drawn_in_the_format_of_the_name(cli: Cli, tmp_path: Path, suffix: str) -> None:
    runs = [write_run(tmp_path / name) for name in ("first", "second")]
    result = cli("plot", *runs, "--output", tmp_path / f"curves{suffix}")
    assert result.code == 0, result.err
    assert result.out.strip() == str(tmp_path / f"curves{suffix}")
    data = (tmp_path / f"curves{suffix}").read_bytes()
    assert data.startswith(STARTS[suffix])
    if suffix == ".svg":
        for words in (b"first", b"second", b"validation", b"nats per character", b"bits per character"):
            assert b"<!-- " + words in data or words in data


@pytest.mark.parametrize(("x_axis", "per_step"), [("steps", 1), ("characters", 100), ("minutes", 0.1)])
def test_points_are_where_the_run_was_by_then(tmp_path: Path, x_axis: str, per_step: float) -> None:
    curve = read_curve(write_run(tmp_path / "run"), x_axis)
    assert [x for x, _ in curve.train] == pytest.approx([per_step * step for step in (1, 2, 3, 4)])
    assert [x for x, _ in curve.validation] == pytest.approx([per_step * step for step in (2, 4)])
    assert [loss for _, loss in curve.validation] == [2.0, 1.25]


def test_a_run_that_is_real(cli: Cli, trained: Path, tmp_path: Path) -> None:
    result = cli("plot", trained, "--x", "minutes", "--output", tmp_path / "run.svg", "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert (tmp_path / "run.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--output", "curves.gif"], "curves.gif"),
        (["run", "--output", "missing/curves.svg"], "missing/curves.svg"),
        (["run", "--x", "epochs"], "--x"),
        (["nowhere"], "nowhere"),
        (["empty"], "empty: nothing has been logged yet"),
        (["run", "bytes"], "per byte"),
        ([], "RUNS"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    write_run(tmp_path / "empty", steps=0, exact=False)
    write_run(tmp_path / "bytes", unit="byte")
    result = cli("plot", *arguments)
    assert result.code == 2
    assert says in result.err
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_without_matplotlib_it_says_how_to_install_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = cli("plot", write_run(tmp_path / "run"), "--output", tmp_path / "curves.svg")
    assert result.code == 2
    assert "pip install" in result.err
    assert not (tmp_path / "curves.svg").exists()
