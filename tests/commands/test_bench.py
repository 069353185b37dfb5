"""``charlm bench``: figures of charlm and of its peers, for people and as JSON."""

import json
import math

import pytest

from tests.commands.conftest import Cli

pytestmark = pytest.mark.usefixtures("bench_in_this_process")

SIZES = ("--hidden-size", "8", "--embedding-size", "4", "--batch-size", "2", "--sequence-length", "4", "--threads", "1")


@pytest.mark.parametrize(("cell", "bf16"), [("lstm", True), ("gru", False), ("rnn", True)])
def test_json_contains_speed_of_every_candidate(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, cell: str, bf16: bool
) -> None:
    monkeypatch.setattr("charlm.benchmark.has_fast_bf16", lambda device: bf16)
    result = cli("bench", *SIZES, "--cell", cell, "--rounds", "1", "--json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert shown["training_characters_per_second"]["charlm"] == 2 * 4 / 0.5
    assert len(shown["training_characters_per_second"]) == 3
    assert [len(shown[f"sampling_{streams}_characters_per_second"]) for streams in (1, 64)] == [3, 3]
    assert shown["sampling_64_characters_per_second"]["charlm"] == 64 * 100 / 0.5
    assert set(shown["matrix_gflops"]) == ({"fp32", "bf16"} if bf16 else {"fp32"})
    assert math.isfinite(shown["training_gflops"])
    assert shown["settings"]["hidden_size"] == 8
    assert shown["rounds"] == 1


def test_report_contains_speedup_over_baselines(cli: Cli) -> None:
    result = cli("bench", *SIZES, "--rounds", "1")
    assert result.code == 0, result.err
    assert result.out.count("charlm is 1.00×") == 6
    assert "2 × 8 lstm" in result.out


def test_preset_settings_that_bench_does_not_use_are_ignored(cli: Cli) -> None:
    result = cli("bench", "--config", "tiny", *SIZES, "--rounds", "1", "--json")
    assert json.loads(result.out)["settings"]["num_layers"] == 1
