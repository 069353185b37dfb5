"""The interface of all kernels.

A kernel may use its own layout for a window: ``arrange`` converts the first layer's input, ``run`` runs one layer, and
``restore`` converts the last layer's output back.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charlm.model.cells import State


class Layer(Protocol):
    """The weights of a layer as a kernel reads them: see :class:`charlm.model.recurrent.RecurrentLayer`."""

    cell: str
    hidden_size: int
    training: bool  # gradients will be needed
    weight_ih: Any  # (gates × hidden, input); parameters in a module, plain tensors elsewhere
    weight_hh: Any  # (gates × hidden, hidden)
    bias: Any  # (gates × hidden,)
    zero_bias: Any  # of the same shape; not trained


@dataclass(frozen=True)
class Tokens:
    """The first layer's input, as ids and embedding rows.

    A kernel can multiply each row once, instead of once per character.
    """

    ids: Tensor
    embedding: Tensor  # (ids, input)

    def vectors(self) -> Tensor:
        """``(…, input)``."""
        return functional.embedding(self.ids, self.embedding)


Inputs = Tensor | Tokens


@dataclass(frozen=True)
class Arranged:
    """A window in a kernel's layout. ``layout``: data that the kernel needs to run it.

    ``rows``: where each row of the layout is in the window, as ``step × lanes + lane``; ``None``: in the same place.
    """

    inputs: Inputs
    layout: Any = None
    rows: Tensor | None = None


class Kernel(Protocol):
    """Runs layers over a window, forward and backward, with the state carried in and out."""

    name: str

    def arrange(self, inputs: Inputs, resets: NDArray[np.bool_] | None) -> Arranged:
        """``inputs``: ``(time, lane, …)``; ``resets``: ``(time, lane)``, true where the state is reset."""
        ...

    def run(self, layer: Layer, inputs: Inputs, state: State, layout: Any, precision: str) -> tuple[Tensor, State]:
        """One layer. Each part of the state is ``(lane, hidden)``. Returns outputs in the layout, and the new state.

        ``precision``: ``fp32``, or ``bf16`` for the matrix products.
        """
        ...

    def restore(self, outputs: Tensor, layout: Any) -> Tensor:
        """Outputs as ``(time, lane, hidden)``."""
        ...
