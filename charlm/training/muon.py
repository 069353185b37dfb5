"""Muon: momentum whose update is orthogonalized, in blocks of the rows of a gate.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. From the gradient G of a block's
weights W, of ``rows × columns``, and its momentum M:

    M ← μ M + (1 − μ) G
    O = U Vᵀ, where U Σ Vᵀ is the singular value decomposition of (1 − μ) G + μ M   (Nesterov's momentum)
    W ← (1 − η λ) W − 0.2 η √max(rows, columns) O

O is approximated by Newton–Schulz iterations, which only multiply matrices. With the factor 0.2 √max(rows, columns)
(Liu et al. 2025, section 2.2), the elements of an update are on average as large as AdamW's at the same learning rate.

Whole gates and five iterations, closer to Jordan et al., take two thirds as long as the rest of a step with 2 × 384
units and 32 × 64 characters on a CPU. Blocks of at most 64 rows and three iterations take a tenth of that and learn as
well: docs/design.md has the numbers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MOMENTUM = 0.95
UPDATE_SCALE = 0.2
BLOCK_ROWS = 64  # at most; the work is proportional to it
NEWTON_SCHULZ_STEPS = 3
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: for singular values between about 0.7 and 1.2
EPSILON = 1e-14  # to divide by the squared norm of a gradient that is zero


class Muon(torch.optim.Optimizer):
    """Muon for some matrices, and AdamW, as it is passed, for the other parameters.

    ``matrices``: each consists of one block of rows per gate, ``(gates × rows, columns)``. Their learning rate is that
    of AdamW times ``learning_rate_ratio``.
    """

    found_inf: Tensor | None = None  # as in fused AdamW: 1 if the step must not be taken

    def __init__(
        self,
        adamw: torch.optim.AdamW,
        matrices: Iterable[Tensor],
        num_gates: int,
        weight_decay: float,
        learning_rate_ratio: float,
    ) -> None:
        group = {
            "params": list(matrices),
            "lr": learning_rate_ratio * adamw.defaults["lr"],
            "learning_rate_ratio": learning_rate_ratio,
            "weight_decay": weight_decay,
        }
        super().__init__([*adamw.param_groups, group], {"fused": adamw.defaults["fused"]})
        self.adamw: Any = adamw
        self.state = adamw.state
        self.num_gates = num_gates

    def updates(self, parameter: Tensor) -> bool:
        """Whether Muon updates this parameter, and not AdamW."""
        return any(parameter is matrix for matrix in self.param_groups[-1]["params"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, closure
        if self.found_inf is not None:
            self.adamw.found_inf = self.found_inf
        self.adamw.step()
        group = self.param_groups[-1]
        for weight in group["params"]:
            self._update(weight, weight.grad, group["lr"], group["weight_decay"])

    def _update(self, weight: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        """A step that must not be taken is taken with a factor of zero, so that nothing waits for the device."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum, factor = state["momentum"], torch.full((), learning_rate, device=weight.device)
        if self.found_inf is not None:
            gradient = torch.where(self.found_inf > 0, momentum, gradient)  # so that the momentum does not change
            factor *= 1 - self.found_inf
        momentum.lerp_(gradient, 1 - MOMENTUM)
        gates = gradient.lerp(momentum, MOMENTUM).view(self.num_gates, -1, weight.shape[1])
        blocks = split_rows(gates)
        scale = UPDATE_SCALE * max(blocks.shape[1:]) ** 0.5
        update = join_rows(orthogonalize(blocks), gates.shape).mul_(factor * scale)
        weight.mul_(1 - factor * weight_decay).sub_(update.reshape(weight.shape))


def split_rows(gates: Tensor) -> Tensor:
    """``(gate, rows, columns)`` → ``(block, at most BLOCK_ROWS, columns)``: equal blocks, padded with zeros."""
    _, rows, columns = gates.shape
    blocks_per_gate = -(-rows // BLOCK_ROWS)
    block_rows = -(-rows // blocks_per_gate)
    padding = blocks_per_gate * block_rows - rows
    return functional.pad(gates, (0, 0, 0, padding)).view(-1, block_rows, columns)


def join_rows(blocks: Tensor, shape: torch.Size) -> Tensor:
    """The reverse of :func:`split_rows`, without the padding. ``shape``: that of the gates."""
    num_gates, rows, columns = shape
    return blocks.reshape(num_gates, -1, columns)[:, :rows]


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move all singular values of each matrix close to 1. ``matrices``: ``(matrix, rows, columns)``.

    A step of the iteration is X ← P X with P = a I + b G + c G² and G = X Xᵀ. So all of them are one product Q X, and Q
    is found from G alone, which becomes P G P: products of square matrices, as small as the smaller side of X.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    gram = x @ x.mT
    squared_norm = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + EPSILON
    gram = gram / squared_norm
    product = None
    for step in range(NEWTON_SCHULZ_STEPS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < NEWTON_SCHULZ_STEPS - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    x = (product / squared_norm.sqrt()) @ x
    return x.mT if is_tall else x
