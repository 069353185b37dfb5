"""``make gpu``: what it says without a GPU, and the page that it writes with one."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu  # type: ignore[import-not-found]

    module: ModuleType = gpu
    return module


def test_without_gpu_succeeds_and_changes_nothing(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = script.PAGE.read_bytes()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(script, "run", pytest.fail)
    assert script.main() == 0
    assert "no GPU" in capsys.readouterr().out
    assert script.PAGE.read_bytes() == before


def subprocess_returning(code: int) -> Any:
    def run(command: list[str], most_seconds: float) -> "subprocess.CompletedProcess[str]":
        bench = {"training_characters_per_second": {"charlm": 1234567.8}, "rounds": 3}
        outputs = {"pytest": "== 30 passed in 60s ==\n", "bench": json.dumps(bench), "train": ""}
        if "train" in command:
            place = Path(command[command.index("--out") + 1])
            place.mkdir()
            (place / "metrics.jsonl").write_text('{"step": 10, "loss_train": 2.5}\n{"step": 20, "loss_train": 2.25}\n')
        what = next(name for name in outputs if name in command)
        return subprocess.CompletedProcess(command, code, outputs[what], "it broke\n" if code else "")

    return run


@pytest.mark.parametrize("code", [0, 1])
def test_with_gpu_writes_page_including_failures(
    script: ModuleType, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a fine GPU")
    monkeypatch.setattr(script, "PAGE", tmp_path / "gpu.md")
    monkeypatch.setattr(script, "run", subprocess_returning(code))
    assert script.main() == code
    page = (tmp_path / "gpu.md").read_text()
    for shown in ("a fine GPU", "30 passed", "1,234,568", "| `loss_train` | 2.25 |", "| steps | 20 |"):
        assert shown in page
    assert ("it broke" in page) is bool(code)


def test_timeout_is_a_failure(script: ModuleType) -> None:
    result = script.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    assert result.returncode == 124


def test_total_timeout_is_at_most_eight_minutes(script: ModuleType) -> None:
    assert script.TESTS_SECONDS + script.BENCH_SECONDS + script.TRAINING_SECONDS <= 8 * 60
