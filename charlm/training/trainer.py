"""The loop: one step, and the things that happen once in a while around it."""

import math
from pathlib import Path

import torch
from torch import Tensor

from charlm import runs
from charlm.checkpoint import Checkpoint, describe_process
from charlm.config import SampleSettings, TrainSettings
from charlm.console import open_bar
from charlm.corpus.batches import Lanes
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import SHORT_UNITS
from charlm.errors import DivergedError, TrainingInterruptedError, quote
from charlm.evaluation.passes import Evaluation, evaluate, lanes_for
from charlm.generation.streams import Sampler
from charlm.model.device import autocast, choose_device, choose_precision, on_device
from charlm.model.language_model import CharacterModel
from charlm.model.sharing import ThreadBalancer, choose_threads, is_fixed
from charlm.progress import TrainingProgress
from charlm.training import schedule
from charlm.training.monitor import Monitor
from charlm.training.optimizer import step_if
from charlm.training.saving import Saver
from charlm.training.sharing import Sharing
from charlm.training.signals import StopSignals
from charlm.training.state import NotFiniteError, TrainingState
from charlm.training.stopwatch import Stopwatch

FIRST_LOOK = 1000  # characters: what the untrained model makes of the text, before anybody has to wait
TIMES_TO_GO_BACK = 2
LOWER_BY = 0.5  # of the learning rate, each time


class Trainer:
    """Trains one model on one corpus in one run folder, from the start or from a checkpoint."""

    def __init__(
        self, settings: TrainSettings, corpus: Corpus, run: Path, quiet: bool = False, origin: Checkpoint | None = None
    ) -> None:
        self.settings = settings
        self.corpus = corpus
        self.origin = origin  # whose weights it starts from
        self.run = run
        self.quiet = quiet
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.validation = corpus.part(corpus.split.validation)
        self.lanes = Lanes(corpus.part(corpus.split.train), settings.batch_size, settings.sequence_length)
        self.evaluations = schedule.schedule_evaluations(
            settings, len(corpus.split.train), len(corpus.split.validation), self.lanes.windows_per_epoch
        )
        self.state = self.first_state()
        self.stopwatch = Stopwatch(self.device)
        self.metrics: dict[str, float] = {}  # of this very step
        self.saver = Saver(run, settings.save_every_minutes, settings.keep_checkpoints)
        self.before_best: tuple[float, int] | None = (
            None  # the best loss, and evaluations since, until this one is saved
        )
        self.gradient_norm = torch.zeros(())
        self.stop_signals = StopSignals(quiet)
        threads = choose_threads(settings.threads, settings, self.lanes.batch_size, self.precision)
        self.balancer = ThreadBalancer(threads, is_fixed(settings.threads) or self.device.type != "cpu")
        self.sharing = Sharing(self.balancer)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of this very corpus. Raises ``CheckpointError`` if it lacks something."""
        self.state.restore(saved)
        self.sharing.resume(self.done)
        self.stopwatch = Stopwatch(self.device, self.done.training_seconds)
        self.metrics = saved.metrics
        self.saver.start_from(self.done.steps, self.done.training_seconds)

    def train(self) -> Evaluation:
        """Train to the end. Returns the exact validation figure of the best checkpoint.

        Raises ``TrainingInterruptedError`` after a signal, with everything saved, and ``DivergedError``.
        """
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.monitor = Monitor(self.run, self.settings, parameters, self.quiet, self.done.steps)
        self.monitor.start(self.done.steps, schedule.total_steps(self.settings, self.lanes.windows_per_epoch))
        self.stop_signals.listen()
        try:
            if self.done.steps == 0:
                self.look_first()
            elif self.finished():
                minutes = self.stopwatch.read() / 60
                self.monitor.say(schedule.why_complete(self.settings, self.done.steps, self.epochs, minutes))
            self.stopwatch.start()
            ended = self.finished()
            while not ended:
                try:
                    ended = self.step()
                except NotFiniteError:
                    self.go_back()
            self.save_at_the_end()
            self.stop_signals.release()  # all is saved: from here on a signal may end it at once
            return self.conclude()
        finally:
            self.stop_signals.release()
            self.monitor.close()

    def step(self) -> bool:
        """One step and what happens around it. Returns whether it was the last. Raises ``NotFiniteError``."""
        self.train_step()
        if self.device.type != "cuda":  # a GPU is still at work; it is waited for where values are read
            self.leave_out_gap()
        last = self.finished()
        self.sharing.look(self.done, self.monitor)
        if self.done.steps % self.settings.log_every == 0:
            self.log()
        if last or self.evaluations.is_due(self.done.steps):
            with self.stopwatch.paused():
                self.evaluate()
        last = last or self.finished()  # an evaluation may have been one too many without a better one
        if last or self.before_best or self.saver.is_due(self.stopwatch.read()):
            with self.stopwatch.paused():
                self.save()
        if self.stop_signals.number:
            self.stop()
        return last

    def finished(self) -> bool:
        patience = self.settings.patience
        return self.progress >= 1 or 0 < patience <= self.done.evaluations_without_improvement

    def train_step(self) -> None:
        """One step of truncated backpropagation through time (Williams and Peng 1990).

        The state is carried from window to window; the gradient stops at the window's start.
        """
        state, before = self.state, self.state.recurrent
        learning_rate = schedule.learning_rate(self.settings, self.done.steps, self.progress)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate * self.done.learning_rate_scale
        total = torch.zeros((), device=self.device)
        # The last window of an epoch may be shorter than the others: each target weighs the same
        windows = range(self.done.windows_seen, self.done.windows_seen + self.settings.accumulation_steps)
        target_counts = [self.lanes.count_targets(number) for number in windows]
        for targets in target_counts:
            loss = self.window_loss() * (targets / sum(target_counts))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        clip = self.settings.gradient_clip or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        # A loss or gradient that is no number must not reach the weights, nor a state that led to it the next step.
        finite = torch.isfinite(self.gradient_norm) & torch.isfinite(total)
        step_if(state.optimizer, finite)
        state.optimizer.zero_grad()
        state.recurrent = tuple(torch.where(finite, new, old) for new, old in zip(state.recurrent, before, strict=True))
        state.count(total, finite, sum(target_counts))
        self.done.steps += 1
        self.metrics = {}

    def window_loss(self) -> Tensor:
        """The loss of the next window, in nats per character; moves the cursor and the state."""
        window = self.lanes.window(self.done.windows_seen)
        inputs, targets = on_device(window.inputs, self.device), on_device(window.targets, self.device)
        state = self.model.zero_state(self.lanes.batch_size) if window.starts_over else self.state.recurrent
        with autocast(self.device, self.precision):
            logits, state = self.model(inputs, state, window.resets)
        self.state.recurrent = tuple(part.detach() for part in state)
        self.done.windows_seen += 1
        self.done.targets_since_last_log += window.characters
        return self.model.loss(logits, targets)

    def leave_out_gap(self) -> None:
        """Time in which the process was stopped is no training time."""
        if gap_seconds := self.stopwatch.end_lap():
            self.monitor.gap(self.done.steps, gap_seconds)

    def log(self) -> None:
        loss_sum, targets, taken, skipped = self.state.since_log.tolist()
        if self.device.type == "cuda":
            self.leave_out_gap()
        self.state.check()
        if skipped:
            self.monitor.say(
                f"Skipped {skipped:.0f} of the last {taken + skipped:.0f} steps: non-finite loss or gradient."
            )
        seconds = self.stopwatch.read()
        self.done.training_seconds_at_last_log, before = seconds, self.done.training_seconds_at_last_log
        self.done.targets_since_last_log, characters = 0, self.done.targets_since_last_log
        self.state.since_log.zero_()
        if not taken:
            return
        loss = loss_sum / targets
        figures = {
            "loss/train": loss,
            f"bits_per_{self.settings.unit}/train": loss / math.log(2),
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(self.gradient_norm),
            f"throughput/{self.settings.unit}s_per_second": characters / (seconds - before),
            "progress/training_seconds": seconds,
            "progress/epoch": self.epochs,
        }
        self.monitor.training(self.done.steps, self.progress, {n: v for n, v in figures.items() if math.isfinite(v)})

    def go_back(self) -> None:
        """Training diverged: go on from the last checkpoint with a lower learning rate. Raises ``DivergedError``."""
        failed_at, done = self.done.steps, self.done
        if done.rollbacks == TIMES_TO_GO_BACK:
            raise DivergedError(
                f"Training diverged at step {failed_at}, even at a lower learning rate. Saved checkpoints are intact.",
                f"Use a lower --learning-rate (last: {self.settings.learning_rate * done.learning_rate_scale:g}).",
            )
        if runs.checkpoints(self.run):
            self.restore(runs.read(self.run, "latest"))
        else:
            self.state = self.first_state()
            self.stopwatch = Stopwatch(self.device)
            self.saver.start_from(0, 0.0)
        runs.forget_after(self.run, self.done.steps)
        self.done.rollbacks = done.rollbacks + 1
        self.done.learning_rate_scale = done.learning_rate_scale * LOWER_BY
        self.stopwatch.start()
        self.monitor.restart(self.done.steps)
        back = f"rolling back to step {self.done.steps} with {LOWER_BY:g} times the learning rate"
        self.monitor.say(f"Training diverged at step {failed_at}: {back}.")

    def look_first(self) -> None:
        """What the untrained model makes of the text: about what guessing would."""
        few = self.validation.part(range(min(FIRST_LOOK, len(self.validation))))
        self.monitor.before_learning(evaluate(self.model, few).nats_per_character, self.model.vocabulary_size)

    def evaluate(self) -> None:
        """Validation loss in lanes, and a sample; the training's own random numbers are not touched."""
        self.state.check()
        lanes = lanes_for(len(self.validation))
        loss = evaluate(self.model, self.validation, lanes, self.precision).nats_per_character
        self.monitor.evaluation(self.done.steps, loss)
        self.metrics = {"loss_validation": loss}
        done = self.done
        if loss < done.best_validation_loss:
            self.before_best = done.best_validation_loss, done.evaluations_without_improvement
            done.best_validation_loss, done.evaluations_without_improvement = loss, 0
        else:
            done.evaluations_without_improvement += 1
        if self.settings.sample_length:
            options = SampleSettings(length=self.settings.sample_length, seed=self.done.steps)
            sampler = Sampler(self.model, self.corpus.vocabulary, options, self.settings)
            self.monitor.sample(self.done.steps, "".join(sampler.stream()))

    def save(self) -> None:
        """Save, or warn that it failed: then a new best is none yet, and the next one is compared with the former."""
        self.state.check()
        self.done.training_seconds = self.stopwatch.read()
        environment = describe_process(self.device, self.precision, self.balancer.most)
        saved = self.saver.save(self.state.checkpoint(self.settings, self.corpus, self.metrics, environment))
        if self.before_best and not saved:
            self.done.best_validation_loss, self.done.evaluations_without_improvement = self.before_best
        self.before_best = None

    def save_at_the_end(self) -> None:
        """Raises ``CharlmError`` that says what is kept if this save fails."""
        if self.saver.saved_step < self.done.steps:
            self.save()
        if self.saver.saved_step < self.done.steps:
            self.saver.fail(self.done.steps)

    def stop(self) -> None:
        self.save_at_the_end()
        raise TrainingInterruptedError(
            f"Stopped after step {self.done.steps}; checkpoint saved.",
            f"Resume with: charlm train --resume {quote(self.run)}",
            self.stop_signals.number,
        )

    def conclude(self) -> Evaluation:
        """The exact validation figure of the best checkpoint: one pass in fp32, one lane."""
        self.monitor.close_bar()
        best = runs.read(self.run, "best")
        total, unit = len(self.validation), f" {SHORT_UNITS[self.settings.unit]}s"
        with open_bar(self.quiet, total=total, desc="exact validation", unit=unit, unit_scale=True) as bar:
            exact = evaluate(best.model(self.device), self.validation, on_progress=self.balancer.watch(bar.update))
        self.monitor.exact(best.step, exact.nats_per_character)
        return exact

    def first_state(self) -> TrainingState:
        vocabulary, lanes = self.corpus.vocabulary, self.lanes
        return TrainingState.first(self.settings, vocabulary, lanes.batch_size, self.device, self.origin)

    @property
    def done(self) -> TrainingProgress:
        return self.state.done

    @property
    def model(self) -> CharacterModel:
        return self.state.model

    @property
    def progress(self) -> float:
        return schedule.progress(self.settings, self.done.steps, self.epochs, self.stopwatch.read() / 60)

    @property
    def epochs(self) -> float:
        return self.done.windows_seen / self.lanes.windows_per_epoch
