"""The training loop: one step at a time, with periodic work in between."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from charlm import runs
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.corpus.variation import Variation
from charlm.corpus.windows import Lanes
from charlm.errors import TrainingInterruptedError, quote
from charlm.evaluation.loss import Evaluation, choose_lanes, evaluate
from charlm.model.device import choose_device, choose_precision, configure_torch
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import ThreadBalancer, choose_threads, is_fixed
from charlm.progress import TrainingProgress
from charlm.training.monitor import Monitor
from charlm.training.policy import ROLLBACK_LR_SCALE, Policy
from charlm.training.ranks import Ranks, Status
from charlm.training.saving import Saver
from charlm.training.sharing import ThreadSharing
from charlm.training.signals import StopSignals
from charlm.training.state import NonFiniteError, TrainingState
from charlm.training.step import take_step
from charlm.training.stopwatch import Stopwatch
from charlm.training.validation import evaluate_best, evaluate_untrained, show_model


class Trainer:
    """Trains one model on one corpus in one run folder, from the start or from a checkpoint.

    ``pretrained``: the model whose weights to start from; ``None``: random weights. ``ranks``: the processes that train
    it together; each of them runs the same loop, and rank 0 writes.
    """

    def __init__(
        self,
        settings: TrainSettings,
        corpus: Corpus,
        run: Path,
        monitor: Monitor,
        pretrained: SavedModel | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings = settings
        self.corpus = corpus
        self.pretrained = pretrained
        self.run = run
        self.monitor = monitor
        self.ranks = ranks = ranks or Ranks()
        self.device = ranks.choose_device(choose_device(settings.device))
        self.precision = choose_precision(settings.precision, self.device)
        self.validation = corpus.subrange(corpus.split.validation)
        training, divide = corpus.subrange(corpus.split.train), ranks.divide_lanes
        variation = Variation(settings.seed, settings.length_variation, settings.reset_probability)
        self.lanes = Lanes(training, settings.batch_size, settings.sequence_length, variation, divide)
        self.policy = Policy(
            settings, len(corpus.split.train), len(corpus.split.validation), self.lanes.windows_per_epoch
        )
        threads = choose_threads(settings.threads, settings, len(self.lanes.own), self.precision)
        self.balancer = ThreadBalancer(threads, is_fixed(settings.threads) or self.device.type != "cpu")
        self.sharing = ThreadSharing(self.balancer, is_shared=ranks.count > 1)
        configure_torch(threads)  # first, because the last bits of initial weights depend on the number of threads
        self.state = self.initial_state()
        self.metrics: dict[str, float] = {}  # of the current step
        self.saver = Saver(run, settings.save_every_minutes, settings.keep_checkpoints)
        self.start_clock(0.0)
        self.unsaved_best: tuple[float, int] | None = None  # the previous best loss, and evaluations since then
        self.gradient_norm = torch.zeros(())
        self.stop_signals = StopSignals(monitor.quiet, is_shared=ranks.count > 1)

    def restore(self, saved: Checkpoint) -> None:
        """Restore a checkpoint of the same corpus. Raises ``CheckpointError`` if it is incomplete."""
        self.state.restore(saved)
        self.sharing.resume(self.counters)
        self.metrics = saved.model.metrics
        self.start_clock(self.counters.training_seconds)

    def start_clock(self, seconds: float) -> None:
        """Continue from a step that is saved, or from the first, after this training time."""
        self.stopwatch = Stopwatch(self.device, seconds)
        self.ranks.reset_status(Status(seconds, 0))
        self.saver.start_from(self.counters.steps, seconds)

    # Main loop

    def train(self) -> Evaluation:
        """Train to the end. Returns the exact validation loss of the best checkpoint.

        Raises ``TrainingInterruptedError`` after a signal, with everything saved, and ``DivergedError``.
        """
        self.monitor.start(self.counters.steps, self.policy.total_steps)
        self.stop_signals.install()
        try:
            stopped = self.policy.should_stop(self.counters, self.seconds)
            if self.counters.steps == 0:
                evaluate_untrained(self.model, self.validation, self.monitor)
            elif stopped:
                self.monitor.print_line(self.policy.why_stopped(self.counters, self.seconds))
            self.stopwatch.start()
            while not stopped:
                try:
                    stopped = self.step()
                except NonFiniteError:
                    self.roll_back()
            self.save_final()
            self.ranks.start_sharing(self.stopwatch.read(), self.stop_signals.received)
            self.ranks.finish_sharing()
            if self.status.signal:
                self.stop()
            self.stop_signals.restore()  # everything is saved: a signal may now end it immediately
            return Evaluation(**self.ranks.compute_on_main(self.evaluate_best))
        finally:
            self.stop_signals.restore()
            self.monitor.close()

    def step(self) -> bool:
        """Run one step and the work due after it. Returns whether it was the last. Raises ``NonFiniteError``."""
        self.train_step()
        if self.device.type != "cuda":  # a GPU may still be working; reading values waits for it
            self.leave_out_gap()
        should_evaluate = self.policy.should_evaluate(self.counters, self.seconds)
        self.sharing.check(self.counters, self.monitor)
        if self.policy.should_log(self.counters):
            self.log()
        if should_evaluate:
            with self.stopwatch.paused():
                self.evaluate()
        seconds, is_best = self.seconds, self.unsaved_best is not None
        if self.policy.should_save(self.counters, seconds, self.saver.due_seconds, is_best):
            with self.stopwatch.paused():
                self.save()
        if self.status.signal:
            self.stop()
        return self.policy.should_stop(self.counters, seconds)

    def train_step(self) -> None:
        """Learn from the next windows."""
        first, counters = self.counters.windows_seen, self.counters
        learning_rate = self.policy.learning_rate(counters, self.seconds)
        self.ranks.start_sharing(self.stopwatch.read(), self.stop_signals.received)
        windows = [self.lanes.window(number) for number in range(first, first + self.settings.accumulation_steps)]
        step = take_step(
            self.model,
            self.state.optimizer,
            windows,
            self.state.recurrent,
            learning_rate * self.lanes.relative_length(windows),
            self.settings.gradient_clip,
            self.precision,
            self.exchange,
        )
        self.ranks.finish_sharing()
        self.state.recurrent, self.gradient_norm = step.state, step.gradient_norm
        self.state.record_step(step.loss, step.is_finite, step.num_targets)
        counters.windows_seen += len(windows)
        counters.targets_since_last_log += step.num_targets
        counters.steps += 1
        self.state.update_average(self.settings.average_decay)
        self.metrics = {}

    # Periodic work

    def log(self) -> None:
        loss_sum, targets, taken, skipped = self.state.since_log.tolist()
        if self.device.type == "cuda":
            self.leave_out_gap()
        self.check_finite()
        if skipped:
            self.monitor.print_line(
                f"Skipped {skipped:.0f} of the last {taken + skipped:.0f} steps: non-finite loss or gradient."
            )
        seconds, counters = self.stopwatch.read(), self.counters
        counters.training_seconds_at_last_log, before = seconds, counters.training_seconds_at_last_log
        counters.targets_since_last_log, characters = 0, counters.targets_since_last_log
        self.state.since_log.zero_()
        if not taken:
            return
        loss = loss_sum / targets
        metrics = {
            "loss/train": loss,
            f"bits_per_{self.settings.unit}/train": loss / math.log(2),
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(self.gradient_norm),
            f"throughput/{self.settings.unit}s_per_second": characters / (seconds - before),
            "progress/training_seconds": seconds,
            "progress/epoch": self.policy.count_epochs(counters),
        }
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.monitor.log_step(counters.steps, self.policy.progress(counters, self.seconds), finite)

    def evaluate(self) -> None:
        """Compute the validation loss in lanes and log a sample, without using training's random numbers."""
        self.check_finite()
        self.ranks.copy_weights(*self.state.models)  # processors of different kinds round differently
        model, lanes = self.state.result, choose_lanes(len(self.validation))
        loss = evaluate(model, self.validation, lanes, self.precision, sharing=self.ranks).nats_per_character
        self.monitor.log_evaluation(self.counters.steps, loss)
        self.metrics = {"loss_validation": loss}
        if previous := self.counters.record_evaluation(loss):
            self.unsaved_best = previous
        if self.ranks.is_main:
            show_model(self.state, self.settings, self.corpus.vocabulary, self.validation, self.monitor)

    def save(self) -> None:
        """Save, or warn on failure and restore the previous best loss, since this model may be lost."""
        self.check_finite()
        self.counters.training_seconds = self.stopwatch.read()
        environment = describe_environment(self.device, self.precision, self.balancer.max_threads, self.ranks.count)
        recurrent = self.ranks.gather_lanes(self.state.recurrent)
        if self.ranks.is_main:
            self.saver.save(self.state.checkpoint(self.settings, self.corpus, self.metrics, environment, recurrent))
        step, self.saver.due_seconds = self.ranks.decide(self.saver.saved_step, self.saver.due_seconds)
        self.saver.saved_step = int(step)
        if self.unsaved_best and self.saver.saved_step < self.counters.steps:
            self.counters.best_validation_loss, self.counters.evaluations_without_improvement = self.unsaved_best
        self.unsaved_best = None

    def roll_back(self) -> None:
        """Training diverged: continue from the last checkpoint with a lower learning rate. Raises ``DivergedError``."""
        diverged_at = self.counters.steps
        rollbacks, learning_rate_scale = self.policy.roll_back(self.counters)
        with self.ranks.main_first():
            saved = runs.load_checkpoint(self.run) if runs.list_checkpoints(self.run) else None
        if saved is not None:
            self.restore(saved)
        else:
            self.state = self.initial_state()
            self.start_clock(0.0)
        if self.ranks.is_main:
            runs.truncate_after(self.run, self.counters.steps)
        self.counters.rollbacks, self.counters.learning_rate_scale = rollbacks, learning_rate_scale
        self.stopwatch.start()
        self.monitor.restart(self.counters.steps)
        back = f"rolling back to step {self.counters.steps} with {ROLLBACK_LR_SCALE:g} times the learning rate"
        self.monitor.print_line(f"Training diverged at step {diverged_at}: {back}.")

    # Start and end

    def save_final(self) -> None:
        """Save the last step. Raises ``CharlmError``, listing the kept checkpoints, if it fails."""
        if self.saver.saved_step < self.counters.steps:
            self.save()
        if self.saver.saved_step < self.counters.steps:
            self.saver.fail(self.counters.steps)

    def stop(self) -> None:
        self.save_final()
        raise TrainingInterruptedError(
            f"Stopped after step {self.counters.steps}; checkpoint saved.",
            f"Resume with: charlm train --resume {quote(self.run)}",
            self.status.signal,
        )

    def evaluate_best(self) -> dict[str, Any]:
        """The exact validation loss of the best checkpoint."""
        return asdict(evaluate_best(self.run, self.validation, self.device, self.monitor, self.balancer))

    # Helpers

    def leave_out_gap(self) -> None:
        """Exclude time during which the process was stopped."""
        if gap_seconds := self.stopwatch.end_lap():
            self.monitor.log_gap(self.counters.steps, gap_seconds)

    def initial_state(self) -> TrainingState:
        state = TrainingState.initial(self.settings, self.corpus.vocabulary, self.lanes, self.device, self.pretrained)
        self.ranks.copy_weights(*state.models)
        self.exchange = self.ranks.exchange_gradients(state.model)
        return state

    def check_finite(self) -> None:
        """Raise ``NonFiniteError`` if rank 0 has found the model to be no longer finite."""
        (is_finite,) = self.ranks.decide(self.state.is_finite())
        if not is_finite:
            raise NonFiniteError

    @property
    def counters(self) -> TrainingProgress:
        return self.state.counters

    @property
    def model(self) -> CharacterModel:
        return self.state.model

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self.status.seconds

    @property
    def status(self) -> Status:
        """What decisions depend on. Several ranks all have that of the last step, so that they decide alike."""
        return self.ranks.shared_status or Status(self.stopwatch.read(), self.stop_signals.received)
