"""From logits to the distribution that the next character is drawn from."""

import torch
from torch import Tensor


def distribution(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """Probabilities ``(…, vocabulary)`` from logits of the same shape.

    ``temperature`` divides the logits (Ackley, Hinton and Sejnowski 1985); at 0 all probability is on the most
    probable character. Then ``top_k`` keeps the k most probable ones (Fan et al. 2018, section 5.1), 0 keeps all;
    of equally probable ones, those of lower ids.
    """
    if temperature < torch.finfo(logits.dtype).tiny:  # 0, or so little that dividing by it gives no number
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if 0 < top_k < logits.shape[-1]:
        beyond = logits.sort(dim=-1, descending=True, stable=True).indices[..., top_k:]
        logits = logits.scatter(-1, beyond, float("-inf"))
    return torch.softmax(logits, -1)
