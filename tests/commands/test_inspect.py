"""``charlm inspect``: a page, the terminal view, a summary and arrays."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.commands import inspect
from charlm.config import SettingsSource
from charlm.reports import inspection
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest
from tests.commands.conftest import Cli
from tests.commands.test_bad_input import assert_rejected


def content_of(page: Path) -> dict[str, Any]:
    data = page.read_text(encoding="utf-8").partition('id="content">')[2].partition("</script>")[0]
    content: dict[str, Any] = json.loads(data)
    return content


def test_the_page_shows_the_validation_split_and_all_units(cli: Cli, trained: Path, tmp_path: Path, poem: str) -> None:
    result = cli("inspect", trained, "--html", "inside.html", "--threads", "1")
    assert result.code == 0, result.err
    assert result.out == "inside.html\n"
    content = content_of(tmp_path / "inside.html")
    assert content["text"] == poem[-408:]
    assert "the validation split of poem" in content["title"]
    assert [layer["units"] for layer in content["layers"]] == [list(range(1, 17))] * 2
    evaluated = json.loads(cli("eval", trained, "--json").out)
    assert content["bits_per_character"] == pytest.approx(evaluated["bits_per_character"], rel=1e-5)


def test_of_a_long_split_the_start_is_shown(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "DEFAULT_CHARACTERS", 100)
    assert cli("inspect", trained, "--html", "inside.html").code == 0
    content = content_of(tmp_path / "inside.html")
    assert len(content["text"]) == 100
    assert "the first 100 characters of the validation split" in content["title"]


def test_a_file_a_pipe_and_a_string_are_one_text(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "Die Wölfe\nzählen.\n"
    (tmp_path / "latin.txt").write_bytes(line.encode("latin-1"))
    shown = ("--neuron", "1:3")
    expected = cli("inspect", trained, "latin.txt", "--encoding", "latin-1", *shown)
    assert expected.code == 0, expected.err
    assert "Die Wölfe↵\n" in expected.out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    assert cli("inspect", trained, "-", *shown) == expected
    assert cli("inspect", trained, "--text", r"Die Wölfe\nzählen.\n", *shown) == expected


def test_the_digits_are_the_values_of_the_gate_that_is_named(cli: Cli, trained: Path) -> None:
    text = "Die Schafe"
    result = cli("inspect", trained, "--text", text, "--neuron", "2:7", "--gate", "forget")
    heading, shown, digits = result.out.splitlines()
    assert heading.startswith("layer 2, unit 7, forget gate")
    assert shown == text
    values = charlm.load(trained).trace(text).signal("forget")[1, :, 6]
    assert [int(digit) for digit in digits] == (values * 10).astype(int).tolist()


def test_a_terminal_is_shaded_unless_no_color_is_wanted(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("NO_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    arguments = ("inspect", trained, "--text", "Die Wölfe", "--neuron", "1:1", "--neuron", "2:16", "--gate", "output")
    assert "\x1b[38;5;16;48;5;" in cli(*arguments).out
    assert cli(*arguments).out.count("output gate") == 2
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert "\x1b[38;2;0;0;0;48;2;" in cli(*arguments).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in cli(*arguments).out


def test_without_a_unit_there_is_a_summary(cli: Cli, trained: Path) -> None:
    result = cli("inspect", trained)
    assert result.code == 0, result.err
    for shown in (
        "LSTM, 2 layers of 16 units",
        "408 characters",
        "inside a word",
        "forget",
        "closed",
        "Time constants",
    ):
        assert shown in result.out


def test_options_can_be_variables_too(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cli("inspect", trained, "--text", "Die", "--neuron", "1:2", "--gate", "input")
    for name, value in {"TEXT": "Die", "NEURON": "1:2", "GATE": "input"}.items():
        monkeypatch.setenv(f"CHARLM_INSPECT_{name}", value)
    assert cli("inspect", trained) == expected


def test_a_sample_is_the_same_every_time(cli: Cli, trained: Path, tmp_path: Path) -> None:
    for name in ("first.html", "second.html"):
        assert cli("inspect", trained, "--sample", "120", "--html", name).code == 0
    first, second = (content_of(tmp_path / name) for name in ("first.html", "second.html"))
    assert len(first["text"]) == 120
    assert first == second
    assert "120 generated characters" in first["title"]


def test_arrays_hold_what_the_trace_does(cli: Cli, trained: Path, tmp_path: Path) -> None:
    result = cli("inspect", trained, "--text", "Die Wölfe", "--npz", "trace.npz", "--html", "inside.html")
    assert result.out == "inside.html\ntrace.npz\n"
    stored, trace = np.load(tmp_path / "trace.npz", allow_pickle=False), charlm.load(trained).trace("Die Wölfe")
    for name in trace.signal_names:
        assert np.array_equal(stored[name], trace.signal(name))


def test_of_a_long_text_the_named_units_are_in_the_page(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MAX_PAGE_BYTES", inspection.RESERVED_BYTES)
    assert cli("inspect", trained, "--html", "inside.html", "--neuron", "2:13", "--gate", "input").code == 0
    content = content_of(tmp_path / "inside.html")
    assert 13 in content["layers"][1]["units"]
    assert sum(len(layer["units"]) for layer in content["layers"]) < 32
    assert content["first"] == {"layer": 2, "unit": 13}
    assert content["first_signal"] == "input"
    tracking = {(unit["layer"], unit["unit"]) for each in content["tracked"] for unit in each["units"]}
    assert tracking
    assert all(unit in content["layers"][layer - 1]["units"] for layer, unit in tracking)


@pytest.fixture
def byte_run(tmp_path: Path, poem_file: Path) -> Path:
    settings = {
        "unit": "byte",
        "cell": "gru",
        "hidden_size": 8,
        "embedding_size": 8,
        "tie_weights": True,
        "num_layers": 1,
        "sequence_length": 16,
        "max_steps": 1,
        "threads": 1,
        "sample_length": 0,
        "document_separator": "\n",
    }
    request = TrainingRequest([str(poem_file)], [SettingsSource("test", settings)], out=tmp_path / "run")
    plan_training(request).trainer(quiet=True).train()
    return tmp_path / "run"


def test_a_byte_level_gru_with_tied_weights_and_documents(cli: Cli, byte_run: Path, tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(b"a\xff\nb\0\xc3")
    assert cli("inspect", byte_run, "any", "--html", "inside.html").code == 0
    content = content_of(tmp_path / "inside.html")
    assert content["unit"] == "byte"
    assert content["cell"] == "gru"
    assert len(content["text"]) == 6
    assert content["labels"][0xFF] == "0xFF"
    assert content["resets"] == [2]
    for arguments in (
        ("--sample", "50", "--html", "sample.html"),
        ("--text", "été", "--neuron", "1:8", "--gate", "reset"),
    ):
        assert cli("inspect", byte_run, *arguments).code == 0
    assert len(content_of(tmp_path / "sample.html")["text"]) == 50


def test_one_character_is_enough(cli: Cli, trained: Path, tmp_path: Path) -> None:
    assert cli("inspect", trained, "--text", "D", "--html", "inside.html", "--npz", "trace.npz").code == 0
    assert content_of(tmp_path / "inside.html")["tracked"] == []
    assert cli("inspect", trained, "--text", "D", "--neuron", "1:1").out.splitlines()[1] == "D"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--text", ""), 1, ("--text", "empty")),
        (("--text", "Die ☃"), 1, ("SNOWMAN",)),
        (("--neuron", "37"), 2, ("--neuron 37", "LAYER:INDEX")),
        (("--neuron", "0:1"), 2, ("--neuron 0:1", "1:1 to 2:16")),
        (("--neuron", "3:1"), 2, ("--neuron 3:1", "2 layers of 16 units")),
        (("--neuron", "1:17"), 2, ("--neuron 1:17", "1:1 to 2:16")),
        (("--gate", "update"), 2, ("--gate update", "lstm", "forget")),
        (("--sample", "20001"), 2, ("--sample 20001", "20,000")),
        (("--sample", "0"), 2, ("--sample", "at least 1")),
        (("--text", "Die", "--sample", "5"), 2, ("--text and --sample",)),
        (("--text", "Die", "--split", "test"), 2, ("--text and --split",)),
        (("--text", "Die", "--encoding", "latin-1"), 2, ("--encoding latin-1",)),
    ],
)
def test_what_cannot_be_inspected(
    cli: Cli, trained: Path, arguments: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    assert_rejected(cli, code, "inspect", trained, *arguments, expected=says, lines=3)


def test_a_gate_that_no_cell_has(cli: Cli, trained: Path) -> None:
    assert_rejected(cli, 2, "inspect", trained, "--gate", "peephole", expected=("--gate", "peephole"), lines=5)


def test_more_units_than_a_page_holds(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_UNITS", 2)
    names = [word for unit in (1, 2, 3) for word in ("--neuron", f"1:{unit}")]
    assert_rejected(cli, 2, "inspect", trained, *names, expected=("--neuron", "3 units", "at most 2"))


def test_a_text_that_is_too_long_is_refused_with_the_limit(cli: Cli, trained: Path, tmp_path: Path, poem: str) -> None:
    (tmp_path / "long.txt").write_text((poem * 10)[:20_001], encoding="utf-8")
    assert_rejected(cli, 1, "inspect", trained, "long.txt", expected=("long", "20,001 characters", "at most 20,000"))
    assert_rejected(
        cli, 1, "inspect", trained, "--text", "Die " * 5001, expected=("--text", "20,004", "at most 20,000")
    )
