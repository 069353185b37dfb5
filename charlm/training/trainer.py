"""The loop: one step, and the things that happen once in a while around it."""

import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from charlm import runs
from charlm.checkpoint import Checkpoint, describe_process
from charlm.config import SampleSettings, TrainSettings
from charlm.corpus.batches import Lanes
from charlm.corpus.encoded import Corpus
from charlm.errors import CheckpointError, DivergedError, TrainingInterruptedError
from charlm.evaluation.passes import Evaluation, evaluate, lanes_for
from charlm.generation.streams import Sampler
from charlm.model.device import autocast, choose_device, choose_precision
from charlm.model.language_model import CharacterModel
from charlm.training import schedule
from charlm.training.monitor import Monitor
from charlm.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
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
        self.model = CharacterModel(len(vocabulary), settings).to(self.device)
        self.optimizer = make_optimizer(self.model, settings)
        self.state = self.model.zero_state(self.lanes.batch_size)
        # Everything that a resume must bring back, beside the tensors
        self.step = 0
        self.windows = 0  # read so far, through all epochs: the cursor
        self.stopwatch = Stopwatch(self.device)
        self.evaluate_every = 0 if settings.evaluate_every == "auto" else settings.evaluate_every  # 0: not known yet
        self.evaluation_seconds = 0.0
        self.best_loss = math.inf
        self.evaluations_without_better = 0
        self.metrics: dict[str, float] = {}  # of this very step
        self.saved_step = 0
        self.saved_seconds = 0.0
        self.stop_signal = 0
        self.begin_log()

    # The story

    def train(self) -> Evaluation:
        """Train to the end. Returns the exact validation figure of the best checkpoint.

        Raises ``TrainingInterruptedError`` after a signal, with everything saved, and ``DivergedError``.
        """
        self.monitor = Monitor(self.run, self.settings, self.parameters, self.quiet, self.step)
        self.monitor.start(self.step, self.total_steps)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self.step == 0:
                self.evaluate()
            self.stopwatch.start()
            while not self.finished():
                self.train_step()
                if self.step % self.settings.log_every == 0:
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
                if self.saved_step < self.step:
                    self.save()
                return self.conclude()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.monitor.close()

    def finished(self) -> bool:
        patience = self.settings.patience
        return self.progress >= 1 or 0 < patience <= self.evaluations_without_better

    def train_step(self) -> None:
        """One step of truncated backpropagation through time (Williams and Peng 1990).

        The state is carried from window to window; the gradient stops at the window's start.
        """
        learning_rate = schedule.learning_rate(self.settings, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for _ in range(self.settings.accumulation_steps):
            loss = self.window_loss() / self.settings.accumulation_steps
            loss.backward()  # type: ignore[no-untyped-call]
            self.log_loss += loss.detach()
        clip = self.settings.gradient_clip or math.inf
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.metrics = {}

    def window_loss(self) -> Tensor:
        """The loss of the next window, in nats per character; moves the cursor and the state."""
        window = self.lanes.window(self.windows)
        inputs = self.to_device(torch.from_numpy(window.inputs))
        targets = self.to_device(torch.from_numpy(window.targets))
        state = self.model.zero_state(self.lanes.batch_size) if window.starts_over else self.state
        with autocast(self.device, self.precision):
            logits, state = self.model(inputs, state)
        self.state = tuple(part.detach() for part in state)
        self.windows += 1
        self.log_characters += window.characters
        return self.model.loss(logits, targets)

    # Once in a while

    def begin_log(self) -> None:
        self.log_step = self.step
        self.log_loss = torch.zeros((), device=self.device)
        self.log_characters = 0
        self.log_seconds = self.stopwatch.read()

    def log(self) -> None:
        seconds = self.stopwatch.read()
        loss = self.log_loss.item() / (self.step - self.log_step)
        figures = {
            "loss/train": loss,
            "bits_per_character/train": loss / math.log(2),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(self.gradient_norm),
            "throughput/characters_per_second": self.log_characters / max(seconds - self.log_seconds, 1e-9),
            "training_seconds": seconds,
            "epoch": self.epochs,
        }
        if not math.isfinite(loss):
            raise DivergedError(
                f"Training diverged: the loss at step {self.step} is {loss}. What was saved before is intact.",
                f"Lower the learning rate (now {self.settings.learning_rate:g}), or set --gradient-clip.",
            )
        self.monitor.training(self.step, self.progress, figures)
        self.begin_log()

    def evaluation_is_due(self) -> bool:
        if not self.evaluate_every and self.step >= STEPS_TO_TIME and self.evaluation_seconds:
            # Measured once, then fixed: a resume must evaluate at the same steps.
            seconds_per_step = self.stopwatch.read() / self.step
            self.evaluate_every = max(1, math.ceil(self.evaluation_seconds / EVALUATION_SHARE / seconds_per_step))
        return bool(self.evaluate_every) and self.step % self.evaluate_every == 0

    def evaluate(self) -> None:
        """Validation loss in lanes, and a sample; the training's own random numbers are not touched."""
        began = time.perf_counter()
        ids = self.corpus.part(self.corpus.split.validation)
        loss = evaluate(self.model, ids, lanes_for(len(ids)), self.precision).nats_per_character
        self.evaluation_seconds = time.perf_counter() - began
        self.monitor.evaluation(self.step, loss)
        if self.step == 0:
            return
        self.metrics = {"loss_validation": loss}
        if loss < self.best_loss:
            self.best_loss, self.evaluations_without_better = loss, 0
        else:
            self.evaluations_without_better += 1
        if self.settings.sample_length:
            options = SampleSettings(length=self.settings.sample_length, seed=self.step)
            self.monitor.sample(self.step, "".join(Sampler(self.model, self.corpus.vocabulary, options).stream()))

    def saving_is_due(self) -> bool:
        a_new_best = self.metrics.get("loss_validation") == self.best_loss
        return a_new_best or self.stopwatch.read() - self.saved_seconds >= self.settings.save_every * 60

    def save(self) -> None:
        self.saved_step, self.saved_seconds = self.step, self.stopwatch.read()
        runs.save(self.run, self.checkpoint(), self.settings.keep)

    def stop(self) -> None:
        if self.saved_step < self.step:
            self.save()
        raise TrainingInterruptedError(
            f"Stopped after step {self.step}, and saved.",
            f"Go on with: charlm train --resume {self.run}",
            self.stop_signal,
        )

    def conclude(self) -> Evaluation:
        """The exact validation figure of the best checkpoint: one pass in fp32, one lane."""
        best = runs.read(self.run, "best")
        ids = self.corpus.part(self.corpus.split.validation)
        hidden = self.quiet or None  # None: hidden where standard error is no terminal
        with tqdm(total=len(ids), desc="exact validation", unit=" chars", unit_scale=True, disable=hidden) as bar:
            exact = evaluate(best.model(self.device), ids, on_progress=bar.update)
        self.monitor.evaluation(best.step, exact.nats_per_character, "validation_exact")
        return exact

    # What is saved, and how it comes back

    def checkpoint(self) -> Checkpoint:
        generators = {"generator.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        return Checkpoint(
            step=self.step,
            settings=self.settings,
            vocabulary=self.corpus.vocabulary,
            weights=dict(self.model.state_dict()),
            metrics=self.metrics,
            progress={
                "windows": self.windows,
                "training_seconds": self.stopwatch.read(),
                "evaluate_every": self.evaluate_every,
                "evaluation_seconds": self.evaluation_seconds,
                "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
                "evaluations_without_better": self.evaluations_without_better,
                "log_step": self.log_step,
                "log_characters": self.log_characters,
                "log_seconds": self.log_seconds,
                "corpus": self.corpus.record(),
            },
            training_state={
                **optimizer_tensors(self.model, self.optimizer),
                **{f"state.{index}": part for index, part in enumerate(self.state)},
                **generators,
                "log_loss": self.log_loss,
            },
            made_by=describe_process(self.device, self.precision),
        )

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of this very corpus. Raises ``CheckpointError`` if it lacks something."""
        try:
            progress: dict[str, Any] = saved.progress
            self.model.load_state_dict(saved.weights)
            tensors = saved.training_state
            restore_optimizer(self.model, self.optimizer, tensors)
            self.state = tuple(tensors[f"state.{index}"].to(self.device) for index in range(len(self.state)))
            torch.set_rng_state(tensors["generator.cpu"])
            if self.device.type == "cuda" and "generator.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
            self.step = self.saved_step = saved.step
            self.windows = progress["windows"]
            self.stopwatch = Stopwatch(self.device, progress["training_seconds"])
            self.saved_seconds = progress["training_seconds"]
            self.evaluate_every = self.evaluate_every or progress["evaluate_every"]
            self.evaluation_seconds = progress["evaluation_seconds"]
            self.best_loss = math.inf if progress["best_loss"] is None else progress["best_loss"]
            self.evaluations_without_better = progress["evaluations_without_better"]
            self.metrics = saved.metrics
            self.log_loss = tensors["log_loss"].to(self.device)
            self.log_step = progress["log_step"]
            self.log_characters = progress["log_characters"]
            self.log_seconds = progress["log_seconds"]
        except (KeyError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{saved.folder}: cannot go on from it: {error}", "Start afresh.") from None

    # Small things

    @property
    def progress(self) -> float:
        return schedule.progress(self.settings, self.step, self.epochs, self.stopwatch.read() / 60)

    @property
    def epochs(self) -> float:
        return self.windows / self.lanes.windows_per_epoch

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
            raise KeyboardInterrupt
        self.stop_signal = number
        self.monitor.say("Stopping after this step; once more to stop at once, without saving.")
