"""The reference cells, step by step: slow, but correct on every device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.cells import CELLS, State, unroll
from charlm.model.kernels.interface import Arranged, Inputs, Layer, Tokens


class ReferenceKernel:
    """Runs :func:`charlm.model.cells.unroll`, always in the precision of the weights."""

    name = "reference"

    def arrange(self, inputs: Inputs, resets: NDArray[np.bool_] | None) -> Arranged:
        return Arranged(inputs, None if resets is None else torch.from_numpy(resets))

    def run(
        self, layer: Layer, inputs: Inputs, state: State, layout: Tensor | None, precision: str
    ) -> tuple[Tensor, State]:
        inputs = inputs.vectors() if isinstance(inputs, Tokens) else inputs
        resets = None if layout is None else layout.to(inputs.device)
        return unroll(CELLS[layer.cell], inputs, state, layer.weight_ih, layer.weight_hh, layer.bias, resets)

    def restore(self, outputs: Tensor, layout: Tensor | None) -> Tensor:
        return outputs
