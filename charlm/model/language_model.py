"""CharacterModel: a recurrent network from character ids to logits of the next character.

Training, benchmarks and every kind of evaluation go from a window to its loss by :meth:`CharacterModel.predict`.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charlm.config import ModelSettings, RegularizationSettings
from charlm.corpus.windows import Window
from charlm.model.cells import CELLS, State
from charlm.model.device import autocast, to_device
from charlm.model.kernels.interface import Inputs, Tokens
from charlm.model.masks import MaskKey, MaskKind
from charlm.model.recurrent import RecurrentStack
from charlm.model.regularization import Dropout, EmbeddingDropout

NO_REGULARIZATION = RegularizationSettings(dropout=0.0)


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for a window.

    ``logits``: ``(time, lane, vocabulary)``, fp32; ``targets``: ``(time, lane)``, on the same device; ``num_targets``:
    the number of targets that are not ignored; ``state``: after the window, detached.
    """

    logits: Tensor
    targets: Tensor
    num_targets: int
    state: State

    def loss_sum(self) -> Tensor:
        """Cross entropy in nats, summed over the targets that are not ignored."""
        return functional.cross_entropy(self.logits.flatten(0, 1), self.targets.flatten(), reduction="sum")

    def losses(self) -> Tensor:
        """Cross entropy of each target in nats, ``(time, lane)``; 0 for ignored targets."""
        nats = functional.cross_entropy(self.logits.flatten(0, 1), self.targets.flatten(), reduction="none")
        return nats.view(self.targets.shape)


class CharacterModel(nn.Module):
    """Embedding → recurrent layers → linear, with dropout during training.

    The embedding has one row more than there are characters, for the start token, which is read but never predicted.
    With ``tie_weights``, the output matrix is the embedding of the characters (Press and Wolf 2017).
    """

    def __init__(
        self,
        vocabulary_size: int,
        settings: ModelSettings,
        regularization: RegularizationSettings = NO_REGULARIZATION,
    ) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.settings = settings
        self.mask_seed = 0  # of dropout
        embedding = torch.empty(vocabulary_size + 1, settings.embedding_size)
        self.embedding = nn.Embedding.from_pretrained(embedding, freeze=False)  # type: ignore[no-untyped-call]
        if not embedding.is_meta:
            self.embedding.reset_parameters()
        self.recurrent = RecurrentStack(
            settings.cell, settings.embedding_size, settings.hidden_size, settings.num_layers, regularization
        )
        self.input_dropout = Dropout(regularization.input_dropout, MaskKind.INPUT, regularization.locked_dropout)
        self.embedding_dropout = EmbeddingDropout(regularization.embedding_dropout)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.output_weight: nn.Parameter | None = None
        if not settings.tie_weights:
            self.output_weight = nn.Parameter(torch.empty(vocabulary_size, settings.hidden_size))
        if embedding.is_meta:
            return
        if self.output_weight is not None:
            nn.init.xavier_uniform_(self.output_weight)
        else:  # with unit variance, the initial logits would be too large
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(settings.embedding_size))

    @classmethod
    def from_weights(cls, vocabulary_size: int, settings: ModelSettings, weights: Mapping[str, Tensor]) -> Self:
        """A model that uses these tensors as weights; nothing is initialized, or copied if they are fp32."""
        with torch.device("meta"):
            model = cls(vocabulary_size, settings)
        model.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
        return model

    @staticmethod
    def shapes(vocabulary_size: int, settings: ModelSettings) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the weights, without allocating them."""
        hidden, embedding = settings.hidden_size, settings.embedding_size
        rows = CELLS[settings.cell].num_gates * hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embedding.weight": (vocabulary_size + 1, embedding),
            "output_bias": (vocabulary_size,),
        }
        if not settings.tie_weights:
            shapes["output_weight"] = (vocabulary_size, hidden)
        for layer in range(settings.num_layers):
            name = f"recurrent.layers.{layer}"
            shapes[f"{name}.weight_ih"] = (rows, hidden if layer else embedding)
            shapes[f"{name}.weight_hh"] = (rows, hidden)
            shapes[f"{name}.bias"] = (rows,)
        return shapes

    def output_matrix(self) -> Tensor:
        """The output matrix, ``(vocabulary, hidden)``: separate, or part of the embedding if tied."""
        return self.embedding.weight[: self.vocabulary_size] if self.output_weight is None else self.output_weight

    def zero_state(self, lanes: int) -> State:
        """The state before a text: each part ``(layer, lane, hidden)``."""
        return self.recurrent.zero_state(lanes, self.output_bias.device)

    def forward(
        self,
        ids: Tensor,
        state: State,
        resets: NDArray[np.bool_] | None = None,
        precision: str = "fp32",
        mask_key: MaskKey | None = None,
    ) -> tuple[Tensor, State]:
        """``ids``: ``(time, lane)``; ``resets``, of the same shape: the state is zero before these steps.

        ``precision``: ``fp32``, or ``bf16`` for the matrix products, while the weights stay fp32. ``mask_key``: see
        :class:`~charlm.model.regularization.Dropout`. Returns logits ``(time, lane, vocabulary)`` and the state after
        the last id.
        """
        tokens = self.embed(ids, mask_key)
        inputs: Inputs = tokens
        if self.input_dropout.is_active:
            inputs = self.input_dropout(tokens.vectors(), mask_key, lanes=ids.shape[1])
        outputs, state = self.recurrent(inputs, state, resets, precision, mask_key)
        with autocast(outputs.device, precision):
            return functional.linear(outputs, self.output_matrix(), self.output_bias), state

    def embed(self, ids: Tensor, mask_key: MaskKey | None = None) -> Tokens:
        """The input of the recurrent layers, before dropout of single elements."""
        return Tokens(ids, self.embedding_dropout(self.embedding.weight, mask_key))

    def predict(self, window: Window, state: State, precision: str = "fp32") -> Predictions:
        """One forward pass over a window, from the state after the previous window."""
        device = self.output_bias.device
        if window.new_lanes is not None:
            new_lanes = to_device(window.new_lanes, device)[None, :, None]
            state = tuple(part.masked_fill(new_lanes, 0) for part in state)
        key = None if window.number is None else MaskKey(self.mask_seed, window.number, window.first_lane)
        logits, state = self(to_device(window.inputs, device), state, window.resets, precision, key)
        targets = to_device(window.targets, device)
        return Predictions(logits.float(), targets, window.num_targets, tuple(part.detach() for part in state))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode in the block, and restore the mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
