"""What a training has done so far, and how it becomes a checkpoint and comes back from one, bit for bit."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from charlm.checkpoint import Checkpoint
from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.training.finetuning import start_from
from charlm.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer

SKIPS_TO_GO_BACK = 5  # steps in a row that were not finite


class NotFiniteError(Exception):
    """The loss, or what was learned, is no finite number any more: training has to go back."""


@dataclass
class Done:
    """What was done so far, in numbers: with the tensors of :class:`TrainingState`, all that a resume needs."""

    steps: int = 0
    windows: int = 0  # read, through all epochs: the cursor
    seconds: float = 0.0  # of training time
    evaluate_every: int = 0  # steps; 0: not measured yet
    best_loss: float = 1e30  # JSON has no infinity
    evaluations_without_better: int = 0
    learning_rate_factor: float = 1.0  # lowered each time that training went back
    times_gone_back: int = 0
    logged_seconds: float = 0.0  # at the last log point
    characters_since_log: int = 0
    thread_changes: list[tuple[int, int]] = field(default_factory=list)  # (step, threads from it on): other work came


@dataclass
class TrainingState:
    """All that changes while training."""

    model: CharacterModel
    optimizer: torch.optim.Optimizer
    recurrent: State  # after the last window, detached
    done: Done
    device: torch.device

    @classmethod
    def first(
        cls,
        settings: TrainSettings,
        vocabulary: Vocabulary,
        lanes: int,
        device: torch.device,
        origin: Checkpoint | None = None,
    ) -> "TrainingState":
        """The state before the first step: it depends on nothing but the settings, the text and ``origin``."""
        torch.manual_seed(settings.seed)
        model = CharacterModel(len(vocabulary), settings)
        if origin is not None:
            start_from(origin, model, vocabulary)
        model.to(device)
        done = Done(evaluate_every=0 if settings.evaluate_every == "auto" else settings.evaluate_every)
        return cls(model, make_optimizer(model, settings), model.zero_state(lanes), done, device)

    def __post_init__(self) -> None:
        # On the device, so that no step waits for them. Steps that are not finite are skipped: see Trainer.train_step
        self.since_log = torch.zeros(3, device=self.device)  # sum of losses, steps taken, steps skipped
        self.skipped_in_a_row = torch.zeros((), device=self.device)

    def count(self, loss: Tensor, finite: Tensor) -> None:
        """Add a step to what is counted on the device: its loss where it is finite, else that it was skipped."""
        self.since_log += torch.stack([torch.where(finite, loss, 0.0), finite, ~finite])
        self.skipped_in_a_row = torch.where(finite, 0.0, self.skipped_in_a_row + 1)

    def check(self) -> None:
        """Raises ``NotFiniteError`` after too many skipped steps, or if a weight is no finite number."""
        weights_are_finite = all(bool(weight.isfinite().all()) for weight in self.model.parameters())
        if not weights_are_finite or self.skipped_in_a_row.item() >= SKIPS_TO_GO_BACK:
            raise NotFiniteError

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights and the numbers: optimiser, recurrent state, random numbers."""
        generators = {"generator.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            **optimizer_tensors(self.model, self.optimizer),
            **{f"state.{index}": part for index, part in enumerate(self.recurrent)},
            **generators,
            "since_log": self.since_log,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def checkpoint(
        self, settings: TrainSettings, corpus: Corpus, metrics: dict[str, float], made_by: dict[str, Any]
    ) -> Checkpoint:
        return Checkpoint(
            step=self.done.steps,
            settings=settings,
            vocabulary=corpus.vocabulary,
            weights=dict(self.model.state_dict()),
            metrics=metrics,
            progress={**asdict(self.done), "corpus": corpus.record()},
            training_state=self.tensors(),
            made_by=made_by,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Put back a checkpoint of a model of this very shape. Raises ``CheckpointError`` if it lacks something."""
        tensors = saved.training_state
        try:
            self.model.load_state_dict(saved.weights)
            restore_optimizer(self.model, self.optimizer, tensors)
            self.recurrent = tuple(tensors[f"state.{index}"].to(self.device) for index in range(len(self.recurrent)))
            self.since_log = tensors["since_log"].to(self.device)
            self.skipped_in_a_row = tensors["skipped_in_a_row"].to(self.device)
            known = {field.name for field in fields(Done)}  # a later charlm may have added some
            self.done = Done(**{name: value for name, value in saved.progress.items() if name in known})
            torch.set_rng_state(tensors["generator.cpu"])
            if self.device.type == "cuda" and "generator.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
        except (KeyError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{saved.folder}: cannot resume from this checkpoint: {reason}.", "Start a new run."
            ) from None
