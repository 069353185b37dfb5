"""The state of training, with bit-exact conversion to and from a checkpoint."""

from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.checkpoint.contents import Checkpoint, SavedModel
from charlm.checkpoint.environment import Environment
from charlm.config import TrainSettings
from charlm.corpus.loading import Corpus
from charlm.corpus.vocabulary import Vocabulary
from charlm.corpus.windows import Lanes
from charlm.errors import CheckpointError
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.progress import TrainingProgress
from charlm.training.averaging import copy_model, update_average
from charlm.training.finetuning import load_pretrained
from charlm.training.optimizer import make_optimizer, optimizer_state_dict, restore_optimizer, take_tensor
from charlm.training.randomness import rng_states, set_rng_states

MAX_CONSECUTIVE_SKIPS = 5  # non-finite steps in a row before a rollback
TRAINED_WEIGHT = "trained_weight."  # with averaged weights, which are the model of a checkpoint; then the name
RECURRENT_STATE = ("recurrent_state.hidden", "recurrent_state.cell")  # the second one for LSTMs only
SINCE_LAST_LOG = tuple(f"since_last_log.{name}" for name in ("loss_sum", "targets", "steps_taken", "steps_skipped"))


class NonFiniteError(Exception):
    """The loss or a weight is no longer finite; training must roll back."""


@dataclass
class TrainingState:
    """Everything that changes during training."""

    model: CharacterModel
    optimizer: torch.optim.Optimizer
    recurrent: State  # of this process's lanes after the last window, detached
    counters: TrainingProgress
    device: torch.device
    lanes: Lanes
    average: CharacterModel | None = None  # of the weights of all steps

    @classmethod
    def initial(
        cls,
        settings: TrainSettings,
        vocabulary: Vocabulary,
        lanes: Lanes,
        device: torch.device,
        pretrained: SavedModel | None = None,
    ) -> "TrainingState":
        """The state before the first step; depends only on the settings, the vocabulary and ``pretrained``."""
        torch.manual_seed(settings.seed)
        model = CharacterModel(len(vocabulary), settings, regularization=settings)
        if pretrained is not None:
            load_pretrained(pretrained, model, vocabulary)
        model.mask_seed = settings.seed
        model.recurrent.kernel = settings.kernel
        model.to(device)
        average = copy_model(model) if settings.average_decay else None
        recurrent = model.zero_state(len(lanes.own))
        return cls(model, make_optimizer(model, settings), recurrent, TrainingProgress(), device, lanes, average)

    def __post_init__(self) -> None:
        # On the device, so that no step waits for them. Non-finite steps are skipped: see Trainer.train_step
        self.since_log = torch.zeros(len(SINCE_LAST_LOG), device=self.device)
        self.consecutive_skips = torch.zeros((), device=self.device)

    @property
    def result(self) -> CharacterModel:
        """The model that is evaluated and saved: the average if there is one."""
        return self.model if self.average is None else self.average

    @property
    def models(self) -> list[CharacterModel]:
        """The model, and the average if there is one."""
        return [self.model] if self.average is None else [self.model, self.average]

    def update_average(self, decay: float) -> None:
        """After a step, and after it is counted."""
        if self.average is not None:
            update_average(self.average, self.model, self.counters.steps, decay)

    def record_step(self, loss: Tensor, finite: Tensor, targets: int) -> None:
        """Record a step on the device: its loss if it is finite, otherwise that it was skipped."""
        taken = finite.float()  # not every device can stack different types
        self.since_log += torch.stack([torch.where(finite, loss * targets, 0.0), taken * targets, taken, 1 - taken])
        self.consecutive_skips = torch.where(finite, 0.0, self.consecutive_skips + 1)

    def is_finite(self) -> bool:
        """False after too many skipped steps in a row, or if a weight is not finite."""
        weights_are_finite = all(bool(weight.isfinite().all()) for weight in self.model.parameters())
        return weights_are_finite and self.consecutive_skips.item() < MAX_CONSECUTIVE_SKIPS

    def tensors(self, recurrent: State | None = None) -> dict[str, Tensor]:
        """All tensors except the result's weights: optimizer, recurrent state, random number generators, counters.

        ``recurrent``: the state of all lanes, if this process has only some.
        """
        trained = self.model.state_dict() if self.average is not None else {}
        return {
            **{TRAINED_WEIGHT + name: weight for name, weight in trained.items()},
            **optimizer_state_dict(self.model, self.optimizer),
            **dict(zip(self.recurrent_names, recurrent or self.recurrent, strict=True)),
            **rng_states(self.device),
            **{name: value.clone() for name, value in zip(SINCE_LAST_LOG, self.since_log, strict=True)},
            "consecutive_skipped_steps": self.consecutive_skips,
        }

    @property
    def recurrent_names(self) -> tuple[str, ...]:
        return RECURRENT_STATE[: len(self.recurrent)]

    def checkpoint(
        self,
        settings: TrainSettings,
        corpus: Corpus,
        metrics: dict[str, float],
        environment: Environment,
        recurrent: State | None = None,
    ) -> Checkpoint:
        """``recurrent``: as in :meth:`tensors`."""
        model = SavedModel(
            step=self.counters.steps,
            settings=settings,
            vocabulary=corpus.vocabulary,
            weights=dict(self.result.state_dict()),
            metrics=metrics,
            progress=self.counters.model_copy(deep=True),
            corpus=corpus.to_record(),
            environment=environment,
        )
        return Checkpoint(model, self.tensors(recurrent))

    def restore(self, saved: Checkpoint) -> None:
        """Restore a checkpoint of the same architecture.

        Raises ``CheckpointError`` if a tensor is missing or does not fit.
        """
        saved.model.check_weights()
        self.result.load_state_dict(saved.model.weights)
        tensors = saved.training_state
        try:
            if self.average is not None:
                weights = self.model.state_dict().items()
                trained = {name: take_tensor(tensors, TRAINED_WEIGHT + name, weight) for name, weight in weights}
                self.model.load_state_dict(trained)
            restore_optimizer(self.model, self.optimizer, tensors)
            recurrent = zip(self.recurrent_names, self.recurrent, strict=True)
            self.recurrent = tuple(self._take_lanes(tensors, name, state) for name, state in recurrent)
            self.since_log = torch.stack([take_tensor(tensors, name, self.since_log[0]) for name in SINCE_LAST_LOG])
            self.consecutive_skips = take_tensor(tensors, "consecutive_skipped_steps", self.consecutive_skips)
            # On a device of another type, its generator starts from the seed
            device = self.device if saved.model.environment.device == self.device.type else torch.device("cpu")
            states = {name: take_tensor(tensors, name, state) for name, state in rng_states(device).items()}
            set_rng_states(device, states)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{saved.model.folder}: cannot resume from this checkpoint: {str(error).splitlines()[0]}.",
                "Resume from another one, or start a new run.",
            ) from None
        self.counters = saved.model.progress.model_copy(deep=True)

    def _take_lanes(self, tensors: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
        all_lanes = like.new_empty(like.shape[0], self.lanes.batch_size, like.shape[2])
        return take_tensor(tensors, name, all_lanes)[:, self.lanes.own.start : self.lanes.own.stop].contiguous()
