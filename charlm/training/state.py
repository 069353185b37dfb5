"""The state of training, and how it becomes a checkpoint and comes back from one, bit for bit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import Environment
from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.progress import TrainingProgress
from charlm.training.finetuning import start_from
from charlm.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer, take
from charlm.training.randomness import rng_states, set_rng_states

SKIPS_TO_GO_BACK = 5  # steps in a row that were not finite
RECURRENT_STATE = ("recurrent_state.hidden", "recurrent_state.cell")  # the second: of an LSTM only
SINCE_LAST_LOG = tuple(f"since_last_log.{name}" for name in ("loss_sum", "targets", "steps_taken", "steps_skipped"))


class NotFiniteError(Exception):
    """The loss, or what was learned, is no finite number any more: training has to go back."""


@dataclass
class TrainingState:
    """All that changes while training."""

    model: CharacterModel
    optimizer: torch.optim.Optimizer
    recurrent: State  # after the last window, detached
    done: TrainingProgress
    device: torch.device

    @classmethod
    def first(
        cls,
        settings: TrainSettings,
        vocabulary: Vocabulary,
        lanes: int,
        device: torch.device,
        origin: SavedModel | None = None,
    ) -> "TrainingState":
        """The state before the first step: it depends on nothing but the settings, the text and ``origin``."""
        torch.manual_seed(settings.seed)
        model = CharacterModel(len(vocabulary), settings, regularization=settings)
        if origin is not None:
            start_from(origin, model, vocabulary)
        model.to(device)
        return cls(model, make_optimizer(model, settings), model.zero_state(lanes), TrainingProgress(), device)

    def __post_init__(self) -> None:
        # On the device, so that no step waits for them. Steps that are not finite are skipped: see Trainer.train_step
        self.since_log = torch.zeros(len(SINCE_LAST_LOG), device=self.device)
        self.skipped_in_a_row = torch.zeros((), device=self.device)

    def count(self, loss: Tensor, finite: Tensor, targets: int) -> None:
        """Add a step to what is counted on the device: its loss where it is finite, else that it was skipped."""
        taken = finite.float()  # not every device stacks numbers of several types
        self.since_log += torch.stack([torch.where(finite, loss * targets, 0.0), taken * targets, taken, 1 - taken])
        self.skipped_in_a_row = torch.where(finite, 0.0, self.skipped_in_a_row + 1)

    def check(self) -> None:
        """Raises ``NotFiniteError`` after too many skipped steps, or if a weight is no finite number."""
        weights_are_finite = all(bool(weight.isfinite().all()) for weight in self.model.parameters())
        if not weights_are_finite or self.skipped_in_a_row.item() >= SKIPS_TO_GO_BACK:
            raise NotFiniteError

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights and the numbers: optimizer, recurrent state, random number generators."""
        return {
            **optimizer_tensors(self.model, self.optimizer),
            **dict(zip(self.recurrent_names, self.recurrent, strict=True)),
            **rng_states(self.device),
            **{name: value.clone() for name, value in zip(SINCE_LAST_LOG, self.since_log, strict=True)},
            "consecutive_skipped_steps": self.skipped_in_a_row,
        }

    @property
    def recurrent_names(self) -> tuple[str, ...]:
        return RECURRENT_STATE[: len(self.recurrent)]

    def checkpoint(
        self, settings: TrainSettings, corpus: Corpus, metrics: dict[str, float], environment: Environment
    ) -> Checkpoint:
        model = SavedModel(
            step=self.done.steps,
            settings=settings,
            vocabulary=corpus.vocabulary,
            weights=dict(self.model.state_dict()),
            metrics=metrics,
            progress=self.done.model_copy(deep=True),
            corpus=corpus.record(),
            environment=environment,
        )
        return Checkpoint(model, self.tensors())

    def restore(self, saved: Checkpoint) -> None:
        """Put back a checkpoint of a model of this architecture.

        Raises ``CheckpointError`` if a tensor is missing or does not fit.
        """
        saved.model.check_weights()
        self.model.load_state_dict(saved.model.weights)
        tensors = saved.training_state
        try:
            restore_optimizer(self.model, self.optimizer, tensors)
            recurrent = zip(self.recurrent_names, self.recurrent, strict=True)
            self.recurrent = tuple(take(tensors, name, state) for name, state in recurrent)
            self.since_log = torch.stack([take(tensors, name, self.since_log[0]) for name in SINCE_LAST_LOG])
            self.skipped_in_a_row = take(tensors, "consecutive_skipped_steps", self.skipped_in_a_row)
            # On another device than before, the generator there starts from the seed
            device = self.device if saved.model.environment.device == self.device.type else torch.device("cpu")
            states = {name: take(tensors, name, state) for name, state in rng_states(device).items()}
            set_rng_states(device, states)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{saved.model.folder}: cannot resume from this checkpoint: {str(error).splitlines()[0]}.",
                "Resume from another one, or start a new run.",
            ) from None
        self.done = saved.model.progress.model_copy(deep=True)
