"""Training: it learns, it ends when it should, and an interruption changes nothing of what it learns."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm import runs
from charlm.checkpoint import Checkpoint
from charlm.errors import CheckpointError, DivergedError, TextError, TrainingInterruptedError, UsageError
from charlm.evaluation.passes import Evaluation, evaluate
from charlm.training import trainer as trainer_module
from charlm.training.trainer import Trainer

Make = Callable[..., Trainer]
Interrupt = Callable[..., None]

TIMED = ("throughput_characters_per_second", "progress_training_seconds")  # never the same twice


def entries(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in entries(run)]


def steps_of(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in runs.checkpoints(run))


def assert_same_training(ours: Checkpoint, theirs: Checkpoint) -> None:
    """Weights, optimiser, carried state, generators: all of them, to the last bit."""
    assert ours.step == theirs.step
    for kind in ("weights", "training_state"):
        one, other = getattr(ours, kind), getattr(theirs, kind)
        assert set(one) == set(other)
        for name in one:
            assert torch.equal(one[name], other[name]), name
    assert ours.metrics == theirs.metrics


def evaluations(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Has evaluations give these losses, the one before learning first, and the last one ever after."""
    left = list(losses)

    def fake(*args: object, **options: object) -> Evaluation:
        return Evaluation(left.pop(0) if len(left) > 1 else left[0], 1)

    monkeypatch.setattr(trainer_module, "evaluate", fake)


# Learning


def test_the_loss_falls(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=60, hidden_size=32, learning_rate=0.02)
    exact = trainer.train()
    assert exact.nats_per_character < math.log(len(trainer.corpus.vocabulary)) - 0.3


def test_the_result_is_the_exact_figure_of_the_best_checkpoint(make_trainer: Make) -> None:
    trainer = make_trainer()
    exact = trainer.train()
    best = runs.read(trainer.run, "best")
    part = trainer.corpus.part(trainer.corpus.split.validation)
    assert exact == evaluate(best.model(torch.device("cpu")), part)
    assert exact.characters == len(trainer.corpus.split.validation)


def test_the_same_seed_trains_the_same_and_another_seed_another(make_trainer: Make, tmp_path: Path) -> None:
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_trainer(run, seed=seed, dropout=0.3, max_steps=4).train()
    a, b, c = (runs.read(tmp_path / run, "last") for run in "abc")
    assert_same_training(a, b)
    assert not torch.equal(a.weights["embedding.weight"], c.weights["embedding.weight"])


def test_two_windows_a_step_follow_the_mean_of_their_gradients(make_trainer: Make) -> None:
    # With a state that is zero at both windows' starts it would be the gradient of a batch twice as large; here the
    # gradients of two windows in a row are added up by hand.
    twice = make_trainer("twice", accumulation_steps=2, gradient_clip=0.0)
    by_hand = make_trainer("by_hand", gradient_clip=0.0)
    twice.train_step()
    (by_hand.window_loss() / 2).backward()
    (by_hand.window_loss() / 2).backward()
    for group in by_hand.state.optimizer.param_groups:
        group["lr"] = by_hand.settings.learning_rate / by_hand.settings.warmup_steps
    by_hand.state.optimizer.step()
    assert twice.done.windows == by_hand.done.windows == 2
    for ours, theirs in zip(twice.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_state_is_carried_from_window_to_window_and_starts_over_with_the_text(make_trainer: Make) -> None:
    trainer = make_trainer()
    seen: list[bool] = []
    forward = trainer.model.forward

    def watching(ids: torch.Tensor, state: tuple[torch.Tensor, ...]) -> Any:
        seen.append(any(bool(part.any()) for part in state))
        assert not any(part.requires_grad for part in state)
        return forward(ids, state)

    trainer.model.forward = watching
    a_pass = trainer.lanes.windows_per_epoch
    for _ in range(a_pass + 2):
        trainer.train_step()
    assert seen == [False, *[True] * (a_pass - 1), False, True]


def test_gradients_are_clipped_to_the_norm_that_is_set(make_trainer: Make) -> None:
    for clip, norm in ((0.01, 0.01), (0.0, None)):
        trainer = make_trainer(f"clip-{clip}", gradient_clip=clip)
        trainer.state.optimizer.zero_grad = lambda: None  # keep the gradients to look at
        trainer.train_step()
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        after = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]).item()
        expected = float(trainer.gradient_norm) if norm is None else norm
        assert after == pytest.approx(expected, rel=1e-3)
        assert float(trainer.gradient_norm) > 0.01  # what is logged is the norm before clipping


# Resuming


@pytest.mark.parametrize("stopped_at", [5, 8])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_resumed_equals_uninterrupted_to_the_last_bit(
    make_trainer: Make, interrupt: Interrupt, cell: str, stopped_at: int
) -> None:
    # 9 windows an epoch, 2 a step: the epoch ends inside step 5; every other step is logged, so 5 is amid a mean
    settings = {"cell": cell, "dropout": 0.3, "accumulation_steps": 2}
    whole = make_trainer("whole", **settings)
    assert whole.lanes.windows_per_epoch < 2 * 5
    exact = whole.train()

    first = make_trainer("parts", **settings)
    interrupt(first, stopped_at)
    with pytest.raises(TrainingInterruptedError) as caught:
        first.train()
    assert caught.value.exit_code == 130
    assert f"--resume {first.run}" in str(caught.value)
    assert runs.read(first.run, "last").step == stopped_at

    torch.manual_seed(99)  # another process would not have these random numbers
    second = make_trainer(resume=first.run)
    assert second.done.steps == stopped_at
    assert second.train() == exact
    assert_same_training(runs.read(second.run, "last"), runs.read(whole.run, "last"))
    assert timeless(second.run) == timeless(whole.run)
    assert [entry["step"] for entry in entries(whole.run) if "loss_train" in entry] == [2, 4, 6, 8, 10, 12]


def test_interrupted_again_and_again_it_is_still_the_same(make_trainer: Make, interrupt: Interrupt) -> None:
    whole = make_trainer("whole", dropout=0.3, tie_weights=True, embedding_size=12)
    whole.train()
    trainer = make_trainer("parts", dropout=0.3, tie_weights=True, embedding_size=12)
    for stopped_at in (1, 4, 5, 11):
        interrupt(trainer, stopped_at)
        with pytest.raises(TrainingInterruptedError):
            trainer.train()
        trainer = make_trainer(resume=trainer.run)
    trainer.train()
    assert_same_training(runs.read(trainer.run, "last"), runs.read(whole.run, "last"))
    assert timeless(trainer.run) == timeless(whole.run)


def test_going_back_to_an_older_checkpoint_gives_the_same_again(make_trainer: Make) -> None:
    trainer = make_trainer(dropout=0.3, keep=20, save_every=1e-9)
    trainer.train()
    last, logged = runs.read(trainer.run, "last"), timeless(trainer.run)
    again = make_trainer(resume=trainer.run / "step-00000007")
    assert steps_of(trainer.run) == [1, 2, 3, 4, 5, 6, 7]
    again.train()
    assert_same_training(runs.read(trainer.run, "last"), last)
    assert timeless(trainer.run) == logged


def test_a_run_can_be_made_longer(make_trainer: Make, tmp_path: Path) -> None:
    make_trainer(max_steps=4).train()
    longer = make_trainer(resume=tmp_path / "run", max_steps=7)
    longer.train()
    assert longer.done.steps == 7
    assert runs.read(longer.run, "last").settings.max_steps == 7


def test_the_signal_of_the_system_to_end_saves_too(make_trainer: Make, interrupt: Interrupt) -> None:
    trainer = make_trainer()
    interrupt(trainer, 3, signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError) as caught:
        trainer.train()
    assert caught.value.exit_code == 143
    assert steps_of(trainer.run) == [3]


def test_a_real_signal_stops_after_the_step_and_the_handlers_are_put_back(make_trainer: Make) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = make_trainer()
    window_loss = trainer.window_loss

    def with_signal() -> torch.Tensor:
        if trainer.done.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return window_loss()

    trainer.window_loss = with_signal
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    assert runs.read(trainer.run, "last").step == 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_signal_stops_at_once(make_trainer: Make) -> None:
    trainer = make_trainer()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.train_step = twice
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 130
    assert steps_of(trainer.run) == []


FIXED = {
    **{"cell": "gru", "embedding_size": 7, "hidden_size": 13, "num_layers": 1, "dropout": 0.1},
    **{"batch_size": 9, "beta1": 0.8, "beta2": 0.98, "weight_decay": 0.3},
    **{"validation_fraction": 0.2, "test_fraction": 0.1, "encoding": "latin-1"},
}


@pytest.fixture(scope="module")
def finished_run(poem: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for tests that only look at it."""
    from charlm.training import session

    folder = tmp_path_factory.mktemp("finished")
    (folder / "poem.txt").write_text(poem, encoding="utf-8", newline="")
    settings = {"hidden_size": 12, "embedding_size": 12, "max_steps": 2, "sample_length": 0, "threads": 1}
    plan = session.plan([str(folder / "poem.txt")], [("test", settings)], out=folder / "run")
    plan.trainer(quiet=True).train()
    return folder / "run"


@pytest.mark.parametrize(("name", "value"), FIXED.items())
def test_a_setting_that_is_fixed_is_refused_by_name(
    make_trainer: Make, finished_run: Path, name: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=f"cannot change .*{name}"):
        make_trainer(resume=finished_run, text=finished_run.parent / "poem.txt", **{name: value})


def test_all_fixed_settings_that_were_changed_are_named_together(make_trainer: Make, finished_run: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_trainer(resume=finished_run, tie_weights=True, batch_size=5, num_layers=7, keep=9)
    assert "tie_weights (False)" in caught.value.message
    assert "batch_size (32)" in caught.value.message
    assert "num_layers (2)" in caught.value.message
    assert "keep" not in caught.value.message


def test_another_text_is_refused(make_trainer: Make, finished_run: Path, tmp_path: Path, poem: str) -> None:
    other = tmp_path / "other.txt"
    other.write_text(poem.replace("Wölfe", "Wolfe"), encoding="utf-8", newline="")
    with pytest.raises(UsageError, match="not the one it was trained on"):
        make_trainer(resume=finished_run, text=other)


def test_the_same_text_of_another_name_is_the_same_text(
    make_trainer: Make, finished_run: Path, tmp_path: Path, poem: str
) -> None:
    other = tmp_path / "elsewhere.txt"
    other.write_text(poem, encoding="utf-8", newline="")
    assert make_trainer(resume=finished_run, text=other).done.steps == 2


def test_another_run_folder_is_refused_on_a_resume(finished_run: Path, tmp_path: Path) -> None:
    from charlm.training import session

    with pytest.raises(UsageError, match="stays in its folder"):
        session.plan([], [], out=tmp_path / "elsewhere", resume=str(finished_run))


def test_resuming_finds_the_text_by_itself(finished_run: Path) -> None:
    from charlm.training import session

    plan = session.plan([], [], resume=str(finished_run))
    assert plan.saved is not None
    assert plan.saved.step == 2


def test_auto_starts_afresh_where_nothing_is_and_goes_on_where_something_is(
    make_trainer: Make, interrupt: Interrupt
) -> None:
    first = make_trainer(resume="auto")
    assert first.done.steps == 0
    interrupt(first, 5)
    with pytest.raises(TrainingInterruptedError):
        first.train()
    second = make_trainer(resume="auto")
    assert second.done.steps == 5
    second.train()
    assert second.done.steps == 12


def test_auto_starts_again_where_nothing_was_saved_yet(make_trainer: Make) -> None:
    killed = make_trainer(resume="auto")
    (killed.run / runs.METRICS).write_text('{"step": 2}\n')
    again = make_trainer(resume="auto")
    assert again.done.steps == 0
    again.train()
    assert entries(again.run)[0]["step"] == 2
    assert len(entries(again.run)[0]) > 1


def test_a_checkpoint_without_a_tensor_it_needs_is_refused(make_trainer: Make, finished_run: Path) -> None:
    trainer = make_trainer("fresh", embedding_size=12)
    saved = runs.read(finished_run, "last")
    del saved.training_state["optimizer.exp_avg.output_bias"]
    with pytest.raises(CheckpointError, match="output_bias"):
        trainer.restore(saved)


# What must not touch the training


def test_evaluating_saving_and_sampling_leave_the_training_as_it_is(make_trainer: Make) -> None:
    busy = make_trainer("busy", dropout=0.5, evaluate_every=1, save_every=1e-9, sample_length=30, log_every=1)
    busy.train()
    idle = make_trainer("idle", dropout=0.5, evaluate_every=1000, sample_length=0, log_every=1000)
    idle.train()
    assert steps_of(idle.run) == [12]
    for ours, theirs in zip(busy.model.parameters(), idle.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# How it ends


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_takes_as_many_steps_as_asked_for(make_trainer: Make, precision: str) -> None:
    trainer = make_trainer(max_steps=5, precision=precision)
    trainer.train()
    assert trainer.done.steps == 5
    assert runs.read(trainer.run, "last").step == 5  # and the end is saved, wherever it falls


def test_an_epoch_reads_every_window_once(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=0, max_epochs=1.0)
    assert trainer.total_steps == trainer.lanes.windows_per_epoch
    trainer.train()
    assert trainer.done.steps == trainer.done.windows == trainer.lanes.windows_per_epoch


def test_the_first_length_reached_ends_it(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=3, max_epochs=1.0)
    assert trainer.total_steps == 3
    trainer.train()
    assert trainer.done.steps == 3


def test_minutes_end_it_and_then_its_steps_are_not_known_beforehand(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=100_000, max_minutes=0.002)
    assert trainer.total_steps == 0
    trainer.train()
    assert 1 <= trainer.done.steps < 100_000
    assert trainer.stopwatch.read() >= 0.002 * 60


def test_patience_ends_it_after_so_many_evaluations_without_a_better_one(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [9.0, 3.0, 2.0, 2.5, 2.0, 2.1])
    trainer = make_trainer(evaluate_every=1, patience=3, max_steps=50)
    trainer.train()
    assert trainer.done.steps == 5
    assert runs.read(trainer.run, "best").step == 2


def test_patience_counts_on_after_a_resume(
    make_trainer: Make, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [9.0, 2.0, 3.0])
    trainer = make_trainer(evaluate_every=1, patience=3, max_steps=50)
    interrupt(trainer, 3)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    resumed = make_trainer(resume=trainer.run)
    resumed.train()
    assert resumed.done.steps == 4


def test_without_patience_it_goes_on(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations(monkeypatch, [1.0, 1.0, 2.0])
    trainer = make_trainer(evaluate_every=1)
    trainer.train()
    assert trainer.done.steps == 12


# Divergence


def diverge(trainer: Trainer, step: int) -> None:
    """Has the weights stop being numbers from ``step`` on."""
    whole_step = trainer.train_step

    def step_that_spoils() -> None:
        if trainer.done.steps + 1 == step:
            trainer.model.output_bias.data.fill_(math.nan)
        whole_step()

    trainer.train_step = step_that_spoils


def assert_no_checkpoint_is_spoilt(run: Path) -> None:
    for folder in runs.checkpoints(run):
        assert all(weight.isfinite().all() for weight in runs.read(folder).weights.values()), folder.name


def test_divergence_ends_it_and_leaves_the_earlier_checkpoints(make_trainer: Make) -> None:
    trainer = make_trainer()
    diverge(trainer, 5)
    with pytest.raises(DivergedError, match="step 6") as caught:
        trainer.train()
    assert caught.value.exit_code == 4
    assert "0.01" in caught.value.hint
    assert steps_of(trainer.run) == [4]
    assert_no_checkpoint_is_spoilt(trainer.run)
    assert "NaN" not in (trainer.run / runs.METRICS).read_text()
    assert make_trainer(resume=trainer.run).done.steps == 4


@pytest.mark.parametrize(
    "settings",
    [{"evaluate_every": 7}, {"evaluate_every": 7, "sample_length": 0}, {"save_every": 1e-9}, {"max_steps": 7}],
    ids=["evaluating with a sample", "evaluating without", "saving", "the end"],
)
def test_divergence_is_noticed_whatever_comes_before_the_next_log_point(
    make_trainer: Make, settings: dict[str, Any]
) -> None:
    trainer = make_trainer(**{"log_every": 100, "evaluate_every": 100, **settings})
    diverge(trainer, 6)
    with pytest.raises(DivergedError):
        trainer.train()
    assert_no_checkpoint_is_spoilt(trainer.run)
    assert "NaN" not in (trainer.run / runs.METRICS).read_text()


def test_a_signal_after_divergence_saves_nothing_spoilt(make_trainer: Make, interrupt: Interrupt) -> None:
    trainer = make_trainer(log_every=100, evaluate_every=100)
    diverge(trainer, 3)
    interrupt(trainer, 4)
    with pytest.raises((DivergedError, TrainingInterruptedError)):
        trainer.train()
    assert_no_checkpoint_is_spoilt(trainer.run)


# What is kept


@pytest.mark.parametrize(("keep", "kept"), [(0, [3, 8]), (1, [3, 7, 8]), (2, [3, 6, 7, 8]), (20, list(range(1, 9)))])
def test_the_best_the_newest_and_keep_more_are_kept(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, keep: int, kept: list[int]
) -> None:
    evaluations(monkeypatch, [9.0, 4.0, 3.0, 1.0, 2.0])
    trainer = make_trainer(max_steps=8, evaluate_every=1, save_every=1e-9, keep=keep)
    trainer.train()
    assert steps_of(trainer.run) == kept
    assert runs.read(trainer.run, "best").step == 3
    assert runs.read(trainer.run, "last").step == 8


def test_each_new_best_is_saved_and_others_are_not(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations(monkeypatch, [9.0, 4.0, 5.0, 3.0, 6.0])
    trainer = make_trainer(max_steps=8, evaluate_every=2, keep=20)
    trainer.train()
    assert steps_of(trainer.run) == [2, 6, 8]


def test_a_checkpoint_that_was_resumed_keeps_the_best_so_far(
    make_trainer: Make, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations(monkeypatch, [9.0, 1.0, 2.0])
    trainer = make_trainer(evaluate_every=2, keep=0)
    interrupt(trainer, 5)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    make_trainer(resume=trainer.run).train()
    assert steps_of(trainer.run) == [2, 12]


# Evaluating now and then


def test_auto_measures_once_how_often_to_evaluate_and_stores_it(make_trainer: Make, interrupt: Interrupt) -> None:
    trainer = make_trainer(evaluate_every="auto", max_steps=26)
    assert trainer.done.evaluate_every == 0
    interrupt(trainer, 23)
    with pytest.raises(TrainingInterruptedError):
        trainer.train()
    measured = trainer.done.evaluate_every
    assert measured >= 1
    saved = runs.read(trainer.run, "last")
    assert saved.progress["evaluate_every"] == measured
    assert saved.settings.evaluate_every == "auto"
    resumed = make_trainer(resume=trainer.run)
    assert resumed.done.evaluate_every == measured
    resumed.train()
    assert resumed.done.evaluate_every == measured


def test_auto_has_evaluations_take_under_a_tenth_of_the_time(make_trainer: Make) -> None:
    trainer = make_trainer(evaluate_every="auto")
    trainer.done.steps, trainer.done.evaluation_seconds = 20, 3.0
    trainer.stopwatch.seconds = 20 * 0.1
    trainer.evaluation_is_due()
    assert 3.0 / (trainer.done.evaluate_every * 0.1) < 0.1


def test_evaluations_come_at_the_steps_that_are_set_and_at_the_end(make_trainer: Make) -> None:
    trainer = make_trainer(max_steps=10, evaluate_every=4)
    trainer.train()
    assert [entry["step"] for entry in entries(trainer.run) if "loss_validation" in entry] == [4, 8, 10]


def test_training_time_is_without_evaluating_and_saving(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    trainer = make_trainer(max_steps=6, evaluate_every=2)
    whole_step, whole_evaluation, whole_save = trainer.train_step, trainer.evaluate, trainer.save

    def step() -> None:
        clock[0] += 1.0
        whole_step()

    def evaluation() -> None:
        clock[0] += 100.0
        whole_evaluation()

    def save() -> None:
        clock[0] += 1000.0
        whole_save()

    trainer.train_step, trainer.evaluate, trainer.save = step, evaluation, save
    trainer.train()
    assert [entry["progress_training_seconds"] for entry in entries(trainer.run) if "loss_train" in entry] == [2, 4, 6]
    assert runs.read(trainer.run, "last").progress["seconds"] == 6


# What is said beforehand


def test_a_text_too_short_for_a_window_is_refused_before_anything_is_written(
    make_trainer: Make, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("ab" * 30)
    with pytest.raises(TextError, match="at least 72"):
        make_trainer(text=short)
    assert not (tmp_path / "run").exists()
