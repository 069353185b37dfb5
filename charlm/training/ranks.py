"""One process alone, or one of several that train a model together (torchrun), behind the same verbs.

Rank 0 decides and writes; the others follow. Every rank calls each method at the same point of its work.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from charlm.errors import UsageError
from charlm.evaluation.loss import LaneSharing, Losses
from charlm.model.cells import State
from charlm.model.language_model import CharacterModel


class Status(NamedTuple):
    """What a clock and signals say, on which decisions depend: all ranks get the same at the same step."""

    seconds: float  # of training, by the clock of rank 0
    signal: int  # that asked any of the ranks to stop, or 0


class GradientExchange:
    """Adds up the gradients of all ranks: here, of one."""

    def start(self, loss: Tensor) -> None:
        """Call before the backward pass that completes the gradients. ``loss``: this rank's part of the sum."""
        self.loss = loss

    def finish(self) -> Tensor:
        """Call after it. The gradients are those of all ranks now, and so is the loss, which is returned."""
        return self.loss


class Ranks(LaneSharing):
    """The processes of a run: here, one. ``number``: of this process."""

    number = 0
    count = 1
    shared_status: Status | None = None  # with several: that of the last step

    @property
    def is_main(self) -> bool:
        return not self.number

    # At the start

    def divide_lanes(self, lanes: int, most: float = math.inf) -> range:
        """The lanes of this rank. Raises ``UsageError`` if they cannot be divided evenly. ``most``: of the text."""
        each = lanes // self.count
        if lanes == each * self.count:
            return range(self.number * each, (self.number + 1) * each)
        nearest = [str(number) for number in (each * self.count, (each + 1) * self.count) if 0 < number <= most]
        raise UsageError(
            f"--batch-size: {lanes} text streams cannot be divided among {self.count} processes.",
            f"The nearest batch sizes that can: {' and '.join(nearest)}." if nearest else "Start fewer processes.",
        )

    def choose_device(self, device: torch.device) -> torch.device:
        """Each process of a machine has a GPU of its own. Raises ``UsageError`` if there are too few."""
        return device

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise ``UsageError`` if other ranks have other facts."""

    def copy_weights(self, *models: CharacterModel) -> None:
        """Give all ranks the weights of rank 0."""

    # One after another

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block while the others wait, then they run it. It may take any time."""
        yield

    def compute_on_main(self, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What rank 0 computes, for all; values of JSON. It may take any time."""
        return compute()

    # In a step

    def exchange_gradients(self, model: CharacterModel) -> GradientExchange:
        return GradientExchange()

    def start_sharing(self, seconds: float, signal: int) -> None:
        """Send the status while the step computes."""

    def finish_sharing(self) -> None:
        """Make it the ``shared_status``."""

    def reset_status(self, status: Status) -> None:
        """All ranks start from the same one."""

    # Now and then

    def decide(self, *values: float) -> tuple[float, ...]:
        """The values that rank 0 has."""
        return values

    def add_up(self, values: Losses) -> Losses:
        return values

    def share_of(self, lanes: range) -> range:
        return lanes

    def gather_lanes(self, state: State) -> State:
        """On rank 0, the recurrent state of all lanes."""
        return state

    @contextmanager
    def report_lost_ranks(self) -> Iterator[None]:
        """Raise ``CharlmError`` instead of a library's error if another rank is gone."""
        yield
