"""Fixtures to run the command line in this process, and a trained run."""

import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from charlm.benchmark import candidates as benchmark_candidates
from charlm.benchmark import timing
from charlm.benchmark.timing import Candidate
from charlm.commands import main
from charlm.config import SettingsSource
from charlm.training.plan import plan_training
from charlm.training.request import TrainingRequest


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    data: bytes = b""  # what went to standard output, before it was decoded


Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Cli]:
    """Calls ``charlm`` with these arguments, in ``tmp_path``: a process of its own takes seconds to import torch."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["charlm", *map(str, arguments)])
        capsysbinary.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capsysbinary.readouterr()
        assert isinstance(ended.value.code, int)
        out, errors = (data.decode("utf-8", "surrogateescape") for data in captured)
        return Result(ended.value.code, out, errors, captured.out)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, sigterm_handler)


@pytest.fixture
def bench_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each candidate of ``charlm bench`` once in this process, since others take seconds to import torch; and
    multiply small matrices, since large ones take minutes in bf16 on a CPU without instructions for it.
    """

    def time_interleaved(
        candidates: Mapping[str, Candidate], rounds: int, on_progress: Callable[[], object]
    ) -> dict[str, float]:
        for make, settings in candidates.values():
            make(settings, torch.device("cpu"))()
            on_progress()
        return dict.fromkeys(candidates, 0.5)

    monkeypatch.setattr(timing, "_time_interleaved", time_interleaved)
    monkeypatch.setattr(benchmark_candidates, "MATRIX_SIZE", 16)


@pytest.fixture(scope="session")
def trained(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints at steps 2 and 4; tests must not modify it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    settings = {
        "hidden_size": 16,
        "embedding_size": 8,
        "batch_size": 4,
        "sequence_length": 16,
        "threads": 1,
        "max_steps": 4,
        "learning_rate": 0.1,
        "warmup_steps": 0,
        "log_every": 2,
        "evaluate_every": 2,
        "save_every_minutes": 1e-9,
        "sample_length": 0,
    }
    plan = plan_training(
        TrainingRequest(
            [str(folder / "poem.txt")],
            [SettingsSource("test", {**settings, "keep_checkpoints": 9})],
            out=folder / "run",
        )
    )
    plan.trainer(quiet=True).train()
    return folder / "run"
