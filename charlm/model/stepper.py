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
"""The state by layers, each part ``(lane, hidden)``."""


class Stepper:
    """Steps of ``model`` in fp32 on its device."""

    def __init__(self, model: CharacterModel) -> None:
        self.model = model
        self.cell = model.settings.cell
        layers = [layer for layer in model.recurrent.layers if isinstance(layer, RecurrentLayer)]
        with torch.inference_mode():
            first = layers[0]
            self.input_table = model.embedding.weight @ first.weight_ih.T + first.bias  # (vocabulary + 1, gates × h)
            # (hidden, gates × hidden): the layout for h @ W
            self.recurrent_weights = [layer.weight_hh.detach().T.contiguous() for layer in layers]
            self.input_weights = [layer.weight_ih.detach().T.contiguous() for layer in layers[1:]]
            self.biases = [layer.bias.detach() for layer in layers[1:]]
            self.output_weight = model.output_matrix().detach().T.contiguous()
            self.output_bias = model.output_bias.detach()

    @torch.inference_mode()
    def step(self, ids: Tensor, state: StepState) -> tuple[Tensor, StepState]:
        """Read one id a lane, ``(lane,)``. Returns logits of what comes next, ``(lane, vocabulary)``, and the state."""
        from_input = self.input_table[ids]
        after: StepState = []
        for layer, weight_hh in enumerate(self.recurrent_weights):
            if layer:
                from_input = torch.addmm(self.biases[layer - 1], after[-1][0], self.input_weights[layer - 1])
            after.append(self._gates(from_input, state[layer], weight_hh))
        return torch.addmm(self.output_bias, after[-1][0], self.output_weight), after

    @torch.inference_mode()
    def read(self, ids: Tensor, chunk: int = 1024) -> tuple[Tensor, StepState]:
        """Read a whole prompt, ``(time, lane)``, from a state of zero, at the speed of training."""
        state = self.model.zero_state(ids.shape[1])
        for start in range(0, len(ids), chunk):
            logits, state = self.model(ids[start : start + chunk], state)
        return logits[-1], list(zip(*(part.unbind() for part in state), strict=True))

    def _gates(self, from_input: Tensor, state: State, weight_hh: Tensor) -> State:
        """The equations of :mod:`charlm.model.cells`, with the products with the input made already."""
        if self.cell == "lstm":
            h, c = state
            sums = torch.addmm(from_input, h, weight_hh)
            hidden = h.shape[1]
            gates = torch.sigmoid(sums)
            candidate = torch.tanh(sums[:, 2 * hidden : 3 * hidden])
            c = torch.addcmul(gates[:, hidden : 2 * hidden] * c, gates[:, :hidden], candidate)
            return gates[:, 3 * hidden :] * torch.tanh(c), c
        (h,) = state
        if self.cell == "rnn":
            return (torch.tanh(torch.addmm(from_input, h, weight_hh)),)
        from_hidden = h @ weight_hh
        both = 2 * h.shape[1]  # the reset and the update gate
        reset, update = torch.sigmoid(from_input[:, :both] + from_hidden[:, :both]).chunk(2, dim=1)
        candidate = torch.tanh(torch.addcmul(from_input[:, both:], reset, from_hidden[:, both:]))
        return (torch.lerp(candidate, h, update),)
