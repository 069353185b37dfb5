"""numpy's BLAS and torch each have a pool of threads: no command of charlm wakes both.

Skipped where numpy's BLAS has no threads to be seen, as on a machine with one processor.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="counts in /proc which threads fall asleep; OpenBLAS divides smaller products on other processors",
)
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
SKIPPED = "numpy's BLAS has no threads here"

HEADER = f"""
from tests.thread_pools import BLAS_THREADS, can_see_blas, other_threads, woken
if not can_see_blas():
    print({SKIPPED!r})
    raise SystemExit
"""

STEPS = """
import itertools
import numpy as np
import torch
from charlm.config import ModelSettings
from charlm.model.language_model import CharacterModel
from charlm.model.stepper import Stepper

torch.ones(1 << 20).exp()  # starts torch's threads
for hidden_size, lanes, precision in itertools.product((64, 256, 384, 448), (1, 3), ("auto", "fp32")):
    model = CharacterModel(65, ModelSettings(hidden_size=hidden_size, num_layers=2))
    stepper = Stepper(model, lanes, precision)
    ids = np.zeros(lanes, dtype=np.int64)
    threads = other_threads() if lanes == 1 else BLAS_THREADS
    if woken(threads, lambda: [stepper.step(ids) for _ in range(500)]):
        print(f"{lanes} of {hidden_size} in {precision}")
"""

PROGRAM = """
from charlm.commands import command_group

TEXT, RUN = "play.txt", "run"
model = "--hidden-size 384 --sequence-length 32 --batch-size 8 --max-steps 4 --sample-length 20"
for command in (
    f"train {TEXT} --out {RUN} {model} --quiet",
    f"sample {RUN} --length 50",
    f"sample {RUN} --length 50 --num-samples 3 --precision fp32",
    f"eval {RUN} --baselines --dynamic --context-loss --independent-windows 32",
    f"score {RUN}",
    f"inspect {RUN} --html page.html",
    f"corpus inspect {TEXT}",
):
    if woken(BLAS_THREADS, lambda: command_group.main(command.split(), standalone_mode=False)):
        print("woken by", command)
"""


def printed_by(code: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", HEADER + code],
        cwd=folder,
        env={**os.environ, **TWO_THREADS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    if SKIPPED in result.stdout:
        pytest.skip(SKIPPED)
    return result.stdout


def test_sampling_steps_wake_no_blas_threads(tmp_path: Path) -> None:
    assert printed_by(STEPS, tmp_path) == ""


def test_commands_wake_no_blas_threads(tmp_path: Path) -> None:
    lines = [f"Line {number * number} of a play, which goes on.\n" for number in range(60)]
    (tmp_path / "play.txt").write_text("".join(lines), encoding="utf-8")
    assert "woken by" not in printed_by(PROGRAM, tmp_path)
