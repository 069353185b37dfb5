"""The training loop: one step at a time, with periodic work in between."""

import math
from pathlib import Path

import torch

from charlm import runs
from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import describe_environment
from charlm.config import SampleSettings, TrainSettings
from charlm.console import open_bar
from charlm.corpus.loading import Corpus
from charlm.corpus.variation import Variation
from charlm.corpus.vocabulary import SHORT_UNITS
from charlm.corpus.windows import Lanes
from charlm.errors import TrainingInterruptedError, quote
from charlm.evaluation.loss import Evaluation, choose_lanes, evaluate
from charlm.generation.sampler import Sampler
from charlm.model.device import choose_device, choose_precision, configure_torch
from charlm.model.kernels.choice import choose_kernel
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import ThreadBalancer, choose_threads, is_fixed
from charlm.progress import TrainingProgress
from charlm.training.internals import measure_internals
from charlm.training.monitor import Monitor
from charlm.training.policy import ROLLBACK_LR_SCALE, Policy
from charlm.training.saving import Saver
from charlm.training.sharing import ThreadSharing
from charlm.training.signals import StopSignals
from charlm.training.state import NonFiniteError, TrainingState
from charlm.training.step import take_step
from charlm.training.stopwatch import Stopwatch

INITIAL_EVAL_CHARACTERS = 1000  # evaluated before the first step; few, so that nobody has to wait


class Trainer:
    """Trains one model on one corpus in one run folder, from the start or from a checkpoint.

    ``pretrained``: the model whose weights to start from; ``None``: random weights.
    """

    def __init__(
        self, settings: TrainSettings, corpus: Corpus, run: Path, monitor: Monitor, pretrained: SavedModel | None = None
    ) -> None:
        self.settings = settings
        self.corpus = corpus
        self.pretrained = pretrained
        self.run = run
        self.monitor = monitor
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        kind = (settings.cell, settings.hidden_size, settings.batch_size, self.device, self.precision, settings.kernel)
        choose_kernel(*kind)  # refuses here, before anything is written, one that cannot run
        self.validation = corpus.subrange(corpus.split.validation)
        variation = Variation(settings.seed, settings.length_variation, settings.reset_probability)
        training = corpus.subrange(corpus.split.train)
        self.lanes = Lanes(training, settings.batch_size, settings.sequence_length, variation)
        self.policy = Policy(
            settings, len(corpus.split.train), len(corpus.split.validation), self.lanes.windows_per_epoch
        )
        threads = choose_threads(settings.threads, settings, self.lanes.batch_size, self.precision)
        self.balancer = ThreadBalancer(threads, is_fixed(settings.threads) or self.device.type != "cpu")
        self.sharing = ThreadSharing(self.balancer)
        configure_torch(threads)  # first, because the last bits of initial weights depend on the number of threads
        self.state = self.initial_state()
        self.model.recurrent.kernel = settings.kernel
        self.stopwatch = Stopwatch(self.device)
        self.metrics: dict[str, float] = {}  # of the current step
        self.saver = Saver(run, settings.save_every_minutes, settings.keep_checkpoints)
        self.unsaved_best: tuple[float, int] | None = None  # the previous best loss, and evaluations since then
        self.gradient_norm = torch.zeros(())
        self.stop_signals = StopSignals(monitor.quiet)

    def restore(self, saved: Checkpoint) -> None:
        """Restore a checkpoint of the same corpus. Raises ``CheckpointError`` if it is incomplete."""
        self.state.restore(saved)
        self.sharing.resume(self.counters)
        self.stopwatch = Stopwatch(self.device, self.counters.training_seconds)
        self.metrics = saved.model.metrics
        self.saver.start_from(self.counters.steps, self.counters.training_seconds)

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
                self.evaluate_untrained()
            elif stopped:
                self.monitor.print_line(self.policy.why_stopped(self.counters, self.seconds))
            self.stopwatch.start()
            while not stopped:
                try:
                    stopped = self.step()
                except NonFiniteError:
                    self.roll_back()
            self.save_final()
            self.stop_signals.restore()  # everything is saved: a signal may now end it immediately
            return self.evaluate_best()
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
        if self.stop_signals.received:
            self.stop()
        return self.policy.should_stop(self.counters, seconds)

    def train_step(self) -> None:
        """Learn from the next windows."""
        first, counters = self.counters.windows_seen, self.counters
        windows = [self.lanes.window(number) for number in range(first, first + self.settings.accumulation_steps)]
        step = take_step(
            self.model,
            self.state.optimizer,
            windows,
            self.state.recurrent,
            self.policy.learning_rate(counters, self.seconds) * self.lanes.relative_length(windows),
            self.settings.gradient_clip,
            self.precision,
        )
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
        self.state.raise_if_nonfinite()
        if skipped:
            self.monitor.print_line(
                f"Skipped {skipped:.0f} of the last {taken + skipped:.0f} steps: non-finite loss or gradient."
            )
        seconds, counters = self.seconds, self.counters
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
        self.state.raise_if_nonfinite()
        lanes = choose_lanes(len(self.validation))
        loss = evaluate(self.state.result, self.validation, lanes, self.precision).nats_per_character
        counters = self.counters
        self.monitor.log_evaluation(counters.steps, loss)
        self.metrics = {"loss_validation": loss}
        if loss < counters.best_validation_loss:
            self.unsaved_best = counters.best_validation_loss, counters.evaluations_without_improvement
            counters.best_validation_loss, counters.evaluations_without_improvement = loss, 0
        else:
            counters.evaluations_without_improvement += 1
        if self.settings.log_internals:
            self.monitor.log_internals(
                counters.steps, measure_internals(self.model, self.state.optimizer, self.validation)
            )
        if self.settings.sample_length:
            options = SampleSettings(length=self.settings.sample_length, seed=counters.steps)
            sampler = Sampler(self.state.result, self.corpus.vocabulary, options, self.settings)
            self.monitor.log_sample(counters.steps, "".join(sampler.stream()))

    def save(self) -> None:
        """Save, or warn on failure and restore the previous best loss, since this model may be lost."""
        self.state.raise_if_nonfinite()
        self.counters.training_seconds = self.seconds
        environment = describe_environment(self.device, self.precision, self.balancer.max_threads)
        saved = self.saver.save(self.state.checkpoint(self.settings, self.corpus, self.metrics, environment))
        if self.unsaved_best and not saved:
            self.counters.best_validation_loss, self.counters.evaluations_without_improvement = self.unsaved_best
        self.unsaved_best = None

    def roll_back(self) -> None:
        """Training diverged: continue from the last checkpoint with a lower learning rate. Raises ``DivergedError``."""
        diverged_at = self.counters.steps
        rollbacks, learning_rate_scale = self.policy.roll_back(self.counters)
        if runs.list_checkpoints(self.run):
            self.restore(runs.load_checkpoint(self.run))
        else:
            self.state = self.initial_state()
            self.stopwatch = Stopwatch(self.device)
            self.saver.start_from(0, 0.0)
        runs.truncate_after(self.run, self.counters.steps)
        self.counters.rollbacks, self.counters.learning_rate_scale = rollbacks, learning_rate_scale
        self.stopwatch.start()
        self.monitor.restart(self.counters.steps)
        back = f"rolling back to step {self.counters.steps} with {ROLLBACK_LR_SCALE:g} times the learning rate"
        self.monitor.print_line(f"Training diverged at step {diverged_at}: {back}.")

    # Start and end

    def evaluate_untrained(self) -> None:
        """Evaluate the untrained model, whose loss is close to uniform guessing."""
        few = self.validation.subrange(range(min(INITIAL_EVAL_CHARACTERS, len(self.validation))))
        self.monitor.log_initial_loss(evaluate(self.model, few).nats_per_character, self.model.vocabulary_size)

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
            self.stop_signals.received,
        )

    def evaluate_best(self) -> Evaluation:
        """The exact validation loss of the best checkpoint, in fp32 and one lane."""
        self.monitor.close_bar()
        best = runs.load_model(self.run)
        total, unit = len(self.validation), f" {SHORT_UNITS[self.settings.unit]}s"
        with open_bar(self.monitor.quiet, total=total, desc="exact validation", unit=unit, unit_scale=True) as bar:
            exact = evaluate(
                best.build_model(self.device), self.validation, on_progress=self.balancer.watch(bar.update)
            )
        self.monitor.log_final_loss(best.step, exact.nats_per_character)
        return exact

    # Helpers

    def leave_out_gap(self) -> None:
        """Exclude time during which the process was stopped."""
        if gap_seconds := self.stopwatch.end_lap():
            self.monitor.log_gap(self.counters.steps, gap_seconds)

    def initial_state(self) -> TrainingState:
        vocabulary, lanes = self.corpus.vocabulary, self.lanes
        return TrainingState.initial(self.settings, vocabulary, lanes.batch_size, self.device, self.pretrained)

    @property
    def counters(self) -> TrainingProgress:
        return self.state.counters

    @property
    def model(self) -> CharacterModel:
        return self.state.model

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self.stopwatch.read()
