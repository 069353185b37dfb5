"""What a training has done so far, and how it becomes a checkpoint and comes back from one, bit for bit."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from charlm.checkpoint import Checkpoint
from charlm.errors import CheckpointError
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.training.optimizer import optimizer_tensors, restore_optimizer


@dataclass
class Done:
    """What was done so far, in numbers: with the tensors of :class:`TrainingState`, all that a resume needs."""

    steps: int = 0
    windows: int = 0  # read, through all epochs: the cursor
    seconds: float = 0.0  # of training time
    evaluate_every: int = 0  # steps; 0: not measured yet
    evaluation_seconds: float = 0.0  # of the first evaluation
    best_loss: float = 1e30  # JSON has no infinity
    evaluations_without_better: int = 0
    logged_steps: int = 0  # at the last log point
    logged_seconds: float = 0.0
    characters_since_log: int = 0


@dataclass
class TrainingState:
    """All that changes while training."""

    model: CharacterModel
    optimizer: torch.optim.Optimizer
    recurrent: State  # after the last window, detached
    loss_since_log: Tensor  # the sum over steps, on the device
    done: Done

    @property
    def device(self) -> torch.device:
        return self.loss_since_log.device

    def weights(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights and the numbers: optimiser, recurrent state, random numbers."""
        generators = {"generator.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["generator.cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            **optimizer_tensors(self.model, self.optimizer),
            **{f"state.{index}": part for index, part in enumerate(self.recurrent)},
            **generators,
            "loss_since_log": self.loss_since_log,
        }

    def numbers(self) -> dict[str, Any]:
        return asdict(self.done)

    def restore(self, saved: Checkpoint) -> None:
        """Put back a checkpoint of a model of this very shape. Raises ``CheckpointError`` if it lacks something."""
        tensors, numbers = saved.training_state, dict(saved.progress)
        numbers.pop("corpus", None)
        try:
            self.model.load_state_dict(saved.weights)
            restore_optimizer(self.model, self.optimizer, tensors)
            self.recurrent = tuple(tensors[f"state.{index}"].to(self.device) for index in range(len(self.recurrent)))
            self.loss_since_log = tensors["loss_since_log"].to(self.device)
            self.done = Done(**numbers)
            torch.set_rng_state(tensors["generator.cpu"])
            if self.device.type == "cuda" and "generator.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["generator.cuda"], self.device)
        except (KeyError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{saved.folder}: training cannot go on from it: {reason}.", "Start afresh."
            ) from None
