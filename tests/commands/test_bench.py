"""``charlm bench``: figures of charlm and of its peers, for people and as JSON."""

import json
import math

import pytest

from charlm.config import ModelSettings
from charlm.model.kernels.library import load_native
from charlm.model.sizes import count_training_flops
from tests.commands.conftest import Cli
from tests.model.test_native import needs_native

pytestmark = pytest.mark.usefixtures("bench_in_this_process")

SIZES = ("--hidden-size", "8", "--embedding-size", "4", "--batch-size", "2", "--sequence-length", "4", "--threads", "1")


@pytest.mark.parametrize(("cell", "bf16"), [("lstm", True), ("gru", False), ("rnn", True)])
def test_json_contains_speed_of_every_candidate(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, cell: str, bf16: bool
) -> None:
    monkeypatch.setattr("charlm.benchmark.report.has_fast_bf16", lambda device: bf16)
    result = cli("bench", *SIZES, "--cell", cell, "--rounds", "1", "--json")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert shown["training_characters_per_second"]["charlm"] == 2 * 4 / 0.5
    assert len(shown["training_characters_per_second"]) == 3
    native = cell == "lstm" and load_native().library is not None
    assert [len(shown[f"sampling_{streams}_characters_per_second"]) for streams in (1, 64)] == [3 + native] * 2
    assert shown["sampling_64_characters_per_second"]["charlm"] == 64 * 100 / 0.5
    assert set(shown["matrix_gflops"]) == ({"fp32", "bf16"} if bf16 else {"fp32"})
    assert math.isfinite(shown["training_gflops"])
    assert shown["settings"]["hidden_size"] == 8
    assert shown["rounds"] == 1


def test_report_contains_speedup_over_baselines(cli: Cli) -> None:
    result = cli("bench", *SIZES, "--rounds", "1")
    assert result.code == 0, result.err
    assert result.out.count("charlm is 1.00×") == 6 + 2 * (load_native().library is not None)
    assert "2 × 8 lstm" in result.out


def test_preset_settings_that_bench_does_not_use_are_ignored(cli: Cli) -> None:
    result = cli("bench", "--config", "tiny", *SIZES, "--rounds", "1", "--json")
    assert json.loads(result.out)["settings"]["num_layers"] == 1


@needs_native
def test_where_the_native_kernels_run_those_of_torch_compete_too(cli: Cli) -> None:
    arguments = ("bench", *SIZES, "--kernel", "native", "--rounds", "1", "--json")
    shown = json.loads(cli(*arguments).out)
    for what in ("training", "sampling_1", "sampling_64"):
        assert "charlm, --kernel torch" in shown[f"{what}_characters_per_second"]
    assert shown["kernel"].startswith("native")
    shown = json.loads(cli(*arguments, "--kernel", "torch").out)
    assert len(shown["training_characters_per_second"]) == len(shown["sampling_1_characters_per_second"]) == 3


def test_operations_are_those_of_all_weights_but_the_first_layers_input() -> None:
    settings = ModelSettings(hidden_size=7, num_layers=3, embedding_size=5)
    recurrent, input_of_upper, output = 3 * 4 * 7 * 7, 2 * 4 * 7 * 7, 65 * 7
    assert count_training_flops(65, settings) == 6 * (recurrent + input_of_upper + output)
