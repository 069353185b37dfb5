"""A run beside other work: its threads, what people are told, what is recorded."""

import pytest
import torch

from charlm import runs
from charlm.machine import LoadMeter
from charlm.model.sharing import ThreadBalancer
from charlm.training.sharing import ThreadSharing
from charlm.training.trainer import Trainer
from tests.training.conftest import Make, entries


class ScriptedMeter(LoadMeter):
    """A minute passes at each look; the load is that of ``loads``, one after the other."""

    def __init__(self, loads: list[float]) -> None:
        self.loads = loads

    def restart(self) -> None:
        pass

    @property
    def seconds(self) -> float:
        return 60.0

    def read(self) -> float:
        return self.loads.pop(0) if self.loads else 0.0


@pytest.fixture
def threads_set(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


def share(trainer: Trainer, loads: list[float], fixed: bool = False) -> None:
    """Have the trainer see these loads after its steps."""
    trainer.balancer = ThreadBalancer(2, fixed, processors=2, meter=ScriptedMeter(loads))
    trainer.sharing = ThreadSharing(trainer.balancer)


def test_thread_changes_are_logged_and_recorded(make_trainer: Make, threads_set: list[int]) -> None:
    trainer = make_trainer(max_steps=12, log_every=2)
    share(trainer, [0.0, 1.0, 1.0, 0.0])
    threads_set.clear()
    trainer.train()
    assert threads_set == [1, 2]
    changes = [(2, 1), (4, 2)]
    saved = runs.load_checkpoint(trainer.run)
    assert [(change.step, change.threads) for change in saved.model.progress.thread_changes] == changes
    assert [(e["step"], e["threads"]) for e in entries(trainer.run) if "threads" in e] == changes
    assert saved.model.environment.threads == 2  # those of a quiet machine


def test_fixed_threads_stay_and_warn_once(
    make_trainer: Make, threads_set: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(max_steps=12, log_every=2)
    trainer.monitor.quiet = False
    share(trainer, [1.0] * 12, fixed=True)
    threads_set.clear()
    trainer.train()
    assert threads_set == []
    assert runs.load_model(trainer.run, "latest").progress.thread_changes == []
    assert capsys.readouterr().err.count("--threads 0") == 1


def test_resume_with_all_threads_is_recorded_as_change(make_trainer: Make, threads_set: list[int]) -> None:
    trainer = make_trainer(max_steps=12, log_every=2)
    share(trainer, [1.0] * 12)
    trainer.train()
    resumed = make_trainer(resume=trainer.run, max_steps=14)
    share(resumed, [])
    resumed.restore(runs.load_checkpoint(trainer.run))
    assert [(change.step, change.threads) for change in resumed.counters.thread_changes] == [(1, 1), (12, 2)]


def test_initial_weights_follow_the_thread_setting_and_not_what_torch_was_set_to(make_trainer: Make) -> None:
    """An orthogonal matrix is computed by LAPACK, whose last bits depend on the number of threads."""
    weights = []
    for threads_before in (1, 2):
        torch.set_num_threads(threads_before)
        trainer = make_trainer(f"after-{threads_before}", hidden_size=256, num_layers=1, threads=1)
        assert torch.get_num_threads() == 1
        weights.append(trainer.model.recurrent.layers[0].weight_hh)
    assert torch.equal(*weights)
