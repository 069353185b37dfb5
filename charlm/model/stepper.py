"""The network one step at a time, for sampling: weights laid out once, no work repeated a character.

What a sequence kernel pays at every call (repacking the weights, dispatch, allocation) costs more than the arithmetic
of one character. Here a step is, for each layer, one product of the hidden state with a matrix that was laid out
before, plus the gates. The first layer's input is one of ``vocabulary + 1`` rows, so its product with ``weight_ih`` is
a table made once. The limit is memory bandwidth: at one stream, each weight is read once a character.
"""

import torch
from torch import Tensor

from charlm.model.cells import State
from charlm.model.language_model import CharacterModel
from charlm.model.recurrent import RecurrentLayer

StepState = list[State]
"""The state by layers, each part ``(lane, hidden)``, or ``(hidden,)`` where there is one lane."""


class Stepper:
    """Steps of ``model`` in fp32 on its device."""

    def __init__(self, model: CharacterModel) -> None:
        self.model = model
        self.cell = model.settings.cell
        layers = [layer for layer in model.recurrent.layers if isinstance(layer, RecurrentLayer)]
        with torch.inference_mode():
            first = layers[0]
            self.input_table = model.embedding.weight @ first.weight_ih.T + first.bias  # (vocabulary + 1, gates × h)
            self.recurrent_weights = [laid_out(layer.weight_hh) for layer in layers]
            self.input_weights = [laid_out(layer.weight_ih) for layer in layers[1:]]
            self.biases = [layer.bias.detach() for layer in layers[1:]]
            self.output_weight = laid_out(model.output_matrix())
            self.output_bias = model.output_bias.detach()
            self.no_bias = torch.zeros_like(first.bias)

    @torch.inference_mode()
    def step(self, ids: Tensor, state: StepState) -> tuple[Tensor, StepState]:
        """Read one id a lane, ``(lane,)``. Returns logits of what comes next, ``(lane, vocabulary)``, and the state."""
        from_input = self.input_table[ids if len(ids) > 1 else int(ids)]
        after: StepState = []
        for layer, weight_hh in enumerate(self.recurrent_weights):
            if layer:
                from_input = product(after[-1][0], self.input_weights[layer - 1], self.biases[layer - 1])
            after.append(self._gates(from_input, state[layer], weight_hh))
        logits = product(after[-1][0], self.output_weight, self.output_bias)
        return logits.view(len(ids), -1), after

    @torch.inference_mode()
    def read(self, ids: Tensor, chunk: int = 1024) -> tuple[Tensor, StepState]:
        """Read a whole prompt, ``(time, lane)``, from a state of zero, at the speed of training."""
        state = self.model.zero_state(ids.shape[1])
        for start in range(0, len(ids), chunk):
            logits, state = self.model(ids[start : start + chunk], state)
        by_part = [part.squeeze(1).unbind() for part in state]  # squeezed where there is one lane
        return logits[-1], list(zip(*by_part, strict=True))

    def _gates(self, from_input: Tensor, state: State, weight_hh: Tensor) -> State:
        """The equations of :mod:`charlm.model.cells`, with the products with the input made already."""
        if self.cell == "lstm":
            h, c = state
            sums = product(h, weight_hh, from_input)
            input_gate, forget_gate, _, output_gate = torch.sigmoid(sums).chunk(4, dim=-1)
            candidate = torch.tanh(sums.chunk(4, dim=-1)[2])
            c = torch.addcmul(forget_gate * c, input_gate, candidate)
            return output_gate * torch.tanh(c), c
        (h,) = state
        if self.cell == "rnn":
            return (torch.tanh(product(h, weight_hh, from_input)),)
        both = 2 * h.shape[-1]  # the reset and the update gate
        from_hidden = product(h, weight_hh, self.no_bias)
        reset, update = torch.sigmoid(from_input[..., :both] + from_hidden[..., :both]).chunk(2, dim=-1)
        candidate = torch.tanh(torch.addcmul(from_input[..., both:], reset, from_hidden[..., both:]))
        return (torch.lerp(candidate, h, update),)


def laid_out(weight: Tensor) -> Tensor:
    """``(rows, columns)`` as its transpose is in memory: what :func:`product` reads in one go."""
    return weight.detach().T.contiguous().T


def product(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``vectors @ weight.T + bias``. ``vectors``: ``(lane, columns)``, or ``(columns,)`` for one lane.

    One vector is its own case: measured twice as fast as the product of a matrix of one row (512 → 2048, fp32).
    """
    if vectors.ndim == 1:
        return torch.addmv(bias, weight, vectors)
    return torch.addmm(bias, vectors, weight.T)
