"""The loop: one step, and the things that happen once in a while around it."""

import math
import signal
import time
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from tqdm import tqdm

from charlm import runs
from charlm.checkpoint import Checkpoint, describe_process
from charlm.config import SampleSettings, TrainSettings
from charlm.corpus.batches import Lanes
from charlm.corpus.encoded import Corpus
from charlm.errors import DivergedError, TrainingInterruptedError
from charlm.evaluation.passes import Evaluation, evaluate, lanes_for
from charlm.generation.streams import Sampler
from charlm.model.device import autocast, choose_device, choose_precision
from charlm.model.language_model import CharacterModel
from charlm.training import schedule
from charlm.training.monitor import Monitor
from charlm.training.optimizer import make_optimizer
from charlm.training.state import Done, TrainingState
from charlm.training.stopwatch import Stopwatch

EVALUATION_SHARE = 0.08  # of the time, at most; the contract says a tenth, and no two evaluations take quite as long
STEPS_TO_TIME = 20  # after which the length of a step is known well enough


class Trainer:
    """Trains one model on one corpus in one run folder, from the start or from a checkpoint."""

    def __init__(self, settings: TrainSettings, corpus: Corpus, run: Path, quiet: bool = False) -> None:
        self.settings = settings
        self.corpus = corpus
        self.run = run
        self.quiet = quiet
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        vocabulary = corpus.vocabulary
        self.lanes = Lanes(
            corpus.part(corpus.split.train), vocabulary.start_id, settings.batch_size, settings.sequence_length
        )
        torch.manual_seed(settings.seed)
        model = CharacterModel(len(vocabulary), settings).to(self.device)
        self.state = TrainingState(
            model=model,
            optimizer=make_optimizer(model, settings),
            recurrent=model.zero_state(self.lanes.batch_size),
            loss_since_log=torch.zeros((), device=self.device),
            done=Done(evaluate_every=0 if settings.evaluate_every == "auto" else settings.evaluate_every),
        )
        self.stopwatch = Stopwatch(self.device)
        self.metrics: dict[str, float] = {}  # of this very step
        self.saved_steps = 0
        self.saved_seconds = 0.0
        self.gradient_norm = torch.zeros(())
        self.stop_signal = 0

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of this very corpus. Raises ``CheckpointError`` if it lacks something."""
        self.state.restore(saved)
        if self.settings.evaluate_every != "auto":
            self.done.evaluate_every = self.settings.evaluate_every
        self.stopwatch = Stopwatch(self.device, self.done.seconds)
        self.metrics = saved.metrics
        self.saved_steps, self.saved_seconds = self.done.steps, self.done.seconds

    # The story

    def train(self) -> Evaluation:
        """Train to the end. Returns the exact validation figure of the best checkpoint.

        Raises ``TrainingInterruptedError`` after a signal, with everything saved, and ``DivergedError``.
        """
        self.monitor = Monitor(self.run, self.settings, self.parameters, self.quiet, self.done.steps)
        self.monitor.start(self.done.steps, self.total_steps)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self.done.steps == 0:
                self.evaluate()
            elif self.finished():
                self.monitor.say("This training was at its end already; --max-steps with a larger number goes on.")
            self.stopwatch.start()
            while not self.finished():
                self.train_step()
                if self.done.steps % self.settings.log_every == 0:
                    self.log()
                if self.evaluation_is_due():
                    with self.stopwatch.paused():
                        self.evaluate()
                if self.saving_is_due():
                    with self.stopwatch.paused():
                        self.save()
                if self.stop_signal:
                    self.stop()
            with self.stopwatch.paused():
                if "loss_validation" not in self.metrics:
                    self.evaluate()
                if self.saved_steps < self.done.steps:
                    self.save()
            for number, handler in handlers.items():  # all is saved: from here on a signal may end it at once
                signal.signal(number, handler)
            return self.conclude()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.monitor.close()

    def finished(self) -> bool:
        patience = self.settings.patience
        return self.progress >= 1 or 0 < patience <= self.done.evaluations_without_better

    def train_step(self) -> None:
        """One step of truncated backpropagation through time (Williams and Peng 1990).

        The state is carried from window to window; the gradient stops at the window's start.
        """
        learning_rate = schedule.learning_rate(self.settings, self.done.steps, self.progress)
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate
        for _ in range(self.settings.accumulation_steps):
            loss = self.window_loss() / self.settings.accumulation_steps
            loss.backward()  # type: ignore[no-untyped-call]
            self.state.loss_since_log += loss.detach()
        clip = self.settings.gradient_clip or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.done.steps += 1
        self.metrics = {}

    def window_loss(self) -> Tensor:
        """The loss of the next window, in nats per character; moves the cursor and the state."""
        window = self.lanes.window(self.done.windows)
        inputs = self.to_device(torch.from_numpy(window.inputs))
        targets = self.to_device(torch.from_numpy(window.targets))
        state = self.model.zero_state(self.lanes.batch_size) if window.starts_over else self.state.recurrent
        with autocast(self.device, self.precision):
            logits, state = self.model(inputs, state)
        self.state.recurrent = tuple(part.detach() for part in state)
        self.done.windows += 1
        self.done.characters_since_log += window.characters
        return self.model.loss(logits, targets)

    # Once in a while

    def check(self) -> None:
        """Raises ``DivergedError`` if the loss or a gradient since the last log point was no finite number."""
        figures = {"loss": self.state.loss_since_log.item(), "gradient norm": float(self.gradient_norm)}
        for name, value in figures.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"Training diverged: the {name} is {value} at step {self.done.steps}. What was saved is intact.",
                    f"Lower the learning rate (now {self.settings.learning_rate:g}), or set --gradient-clip.",
                )

    def log(self) -> None:
        self.check()
        seconds = self.stopwatch.read()
        steps = self.done.steps - self.done.logged_steps
        loss = self.state.loss_since_log.item() / steps
        figures = {
            "loss/train": loss,
            "bits_per_character/train": loss / math.log(2),
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(self.gradient_norm),
            "throughput/characters_per_second": self.done.characters_since_log / (seconds - self.done.logged_seconds),
            "progress/training_seconds": seconds,
            "progress/epoch": self.epochs,
        }
        self.monitor.training(self.done.steps, self.progress, figures)
        self.done.logged_steps, self.done.logged_seconds, self.done.characters_since_log = self.done.steps, seconds, 0
        self.state.loss_since_log.zero_()

    def evaluation_is_due(self) -> bool:
        if not self.done.evaluate_every and self.done.steps >= STEPS_TO_TIME and self.done.evaluation_seconds:
            # Measured once, then fixed: a resume must evaluate at the same steps.
            seconds_per_step = self.stopwatch.read() / self.done.steps
            self.done.evaluate_every = max(
                1, math.ceil(self.done.evaluation_seconds / EVALUATION_SHARE / seconds_per_step)
            )
        return bool(self.done.evaluate_every) and self.done.steps % self.done.evaluate_every == 0

    def evaluate(self) -> None:
        """Validation loss in lanes, and a sample; the training's own random numbers are not touched."""
        self.check()
        began = time.perf_counter()
        ids = self.corpus.part(self.corpus.split.validation)
        loss = evaluate(self.model, ids, lanes_for(len(ids)), self.precision).nats_per_character
        self.done.evaluation_seconds = time.perf_counter() - began
        if self.done.steps == 0:
            self.monitor.before_learning(loss, self.model.vocabulary_size)
            return
        self.monitor.evaluation(self.done.steps, loss)
        self.metrics = {"loss_validation": loss}
        if loss < self.done.best_loss:
            self.done.best_loss, self.done.evaluations_without_better = loss, 0
        else:
            self.done.evaluations_without_better += 1
        if self.settings.sample_length:
            options = SampleSettings(length=self.settings.sample_length, seed=self.done.steps)
            self.monitor.sample(self.done.steps, "".join(Sampler(self.model, self.corpus.vocabulary, options).stream()))

    def saving_is_due(self) -> bool:
        a_new_best = self.metrics.get("loss_validation") == self.done.best_loss
        return a_new_best or self.stopwatch.read() - self.saved_seconds >= self.settings.save_every * 60

    def save(self) -> None:
        self.check()
        self.done.seconds = self.stopwatch.read()
        self.saved_steps, self.saved_seconds = self.done.steps, self.done.seconds
        saved = Checkpoint(
            step=self.done.steps,
            settings=self.settings,
            vocabulary=self.corpus.vocabulary,
            weights=self.state.weights(),
            metrics=self.metrics,
            progress={**self.state.numbers(), "corpus": self.corpus.record()},
            training_state=self.state.tensors(),
            made_by=describe_process(self.device, self.precision),
        )
        runs.save(self.run, saved, self.settings.keep)

    def stop(self) -> None:
        if self.saved_steps < self.done.steps:
            self.save()
        raise TrainingInterruptedError(
            f"Stopped after step {self.done.steps}, and saved.",
            f"Go on with: charlm train --resume {self.run}",
            self.stop_signal,
        )

    def conclude(self) -> Evaluation:
        """The exact validation figure of the best checkpoint: one pass in fp32, one lane."""
        self.monitor.close_bar()
        best = runs.read(self.run, "best")
        ids = self.corpus.part(self.corpus.split.validation)
        hidden = self.quiet or None  # None: hidden where standard error is no terminal
        with tqdm(total=len(ids), desc="exact validation", unit=" chars", unit_scale=True, disable=hidden) as bar:
            exact = evaluate(best.model(self.device), ids, on_progress=bar.update)
        self.monitor.exact(best.step, exact.nats_per_character)
        return exact

    # Small things

    @property
    def done(self) -> Done:
        return self.state.done

    @property
    def model(self) -> CharacterModel:
        return self.state.model

    @property
    def progress(self) -> float:
        return schedule.progress(self.settings, self.done.steps, self.epochs, self.stopwatch.read() / 60)

    @property
    def epochs(self) -> float:
        return self.done.windows / self.lanes.windows_per_epoch

    @property
    def total_steps(self) -> int:
        """How many steps the whole training takes, 0 where only the clock ends it."""
        by_epochs = self.settings.max_epochs * self.lanes.windows_per_epoch / self.settings.accumulation_steps
        lengths = [length for length in (self.settings.max_steps, math.ceil(by_epochs)) if length]
        return 0 if self.settings.max_minutes else min(lengths)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal:  # the second time: at once
            raise SystemExit(128 + number)
        self.stop_signal = number
        self.monitor.say("Stopping after this step; once more to stop at once, without saving.")
