"""Dropout of activations, weights and characters, with masks that are cheap to draw."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.model.masks import MaskKey, MaskKind

LEVELS = 1 << 16  # equally likely values of the 16 random bits behind each mask element


class Regularizer(nn.Module):
    """While training, zeroes with probability ``p`` and scales the rest so that the mean stays the same.

    The probability of keeping an element is a multiple of 1/65,536; the scale is one over exactly that probability.
    Without a key, masks depend on the state of torch's generator.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1, p
        self.p = p
        self.kept_levels = max(1, round((1 - p) * LEVELS))

    @property
    def is_active(self) -> bool:
        return self.training and self.p > 0

    def mask(self, bits: Tensor) -> Tensor:
        """1 where an element is kept, else 0. ``bits``: 16 for each element; they are overwritten."""
        # bits are numbers from -32,768 to 32,767
        is_reachable = self.kept_levels < LEVELS
        return bits.lt_(self.kept_levels - LEVELS // 2) if is_reachable else torch.ones_like(bits)

    def apply_mask(self, inputs: Tensor, bits: Tensor) -> Tensor:
        """``bits``: for each element of ``inputs``, or in a shape that is broadcast to theirs."""
        mask, scale = self.mask(bits), LEVELS / self.kept_levels
        if mask.shape != inputs.shape:
            return (inputs * mask.to(inputs.dtype)).mul_(scale)
        outputs: Tensor = _MaskAndScale.apply(inputs, mask, scale)  # type: ignore[no-untyped-call]
        return outputs


class Dropout(Regularizer):
    """Dropout of activations: of each by itself, or with ``locked`` of the same ones at every step of a window.

    ``torch.nn.Dropout`` draws one number at a time on a CPU, which takes longer than any other part of a training step
    except the recurrent kernels. Here, one 64-bit word gives four mask elements.

    With ``locked``, the mask of a lane is drawn once for each window (Gal and Ghahramani 2016). Documents that begin
    within the window share it: what counts is that a mask does not change while a state is carried, and a mask for each
    would depend on where in a window a document begins.
    """

    def __init__(self, p: float, kind: MaskKind = MaskKind.OUTPUT, locked: bool = False) -> None:
        super().__init__(p)
        self.kind = kind
        self.locked = locked

    def forward(
        self, inputs: Tensor, key: MaskKey | None = None, layer: int = 0, lanes: int = 1, rows: Tensor | None = None
    ) -> Tensor:
        """``inputs``: ``(time, lane, size)`` or, with ``rows``, these rows of ``(time × lane, size)``.

        ``key`` and ``layer`` determine the mask. Without a key and unless ``locked``, inputs may have any shape.
        """
        if not self.is_active:
            return inputs
        place, device = (self.kind, layer), inputs.device
        if self.locked:
            bits = (key or MaskKey.random()).draw_for_lanes(place, 1, lanes, inputs.shape[-1], device)
            return self.apply_mask(inputs, bits if rows is None else bits[0][rows % lanes])
        if key is None:
            return self.apply_mask(inputs, MaskKey.random().draw(place, inputs.numel(), device).view(inputs.shape))
        steps = inputs.shape[:-1].numel() // lanes
        return self.apply_mask(inputs, key.draw_for_lanes(place, steps, lanes, inputs.shape[-1], device, rows))


class WeightDropout(Regularizer):
    """Dropout of single recurrent weights, the same ones at every step of a window (Merity, Keskar and Socher 2018,
    section 2).
    """

    def forward(self, weight: Tensor, key: MaskKey | None = None, layer: int = 0) -> Tensor:
        if not self.is_active:
            return weight
        bits = (key or MaskKey.random()).draw((MaskKind.WEIGHT, layer), weight.numel(), weight.device)
        return self.apply_mask(weight, bits.view(weight.shape))


class EmbeddingDropout(Regularizer):
    """Dropout of whole characters: their embedding is zero wherever they occur in a window (Gal and Ghahramani 2016,
    section 4.2; Merity, Keskar and Socher 2018, section 4.3).
    """

    def forward(self, embedding: Tensor, key: MaskKey | None = None) -> Tensor:
        """``embedding``: ``(ids, size)``."""
        if not self.is_active:
            return embedding
        bits = (key or MaskKey.random()).draw((MaskKind.EMBEDDING, 0), len(embedding), embedding.device)
        return self.apply_mask(embedding, bits[:, None])


class _MaskAndScale(torch.autograd.Function):
    """``inputs × mask × scale``, the same for the gradient; of the mask, 16 bits per element are saved.

    Every operation is one that torch vectorizes: operations on Booleans are several times as slow. The scale is applied
    by itself, since torch rounds a mask that contains it to the type of ``inputs``: in bf16, that moves the mean by up
    to 0.4%.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return mask.to(inputs.dtype).mul_(inputs).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return mask.to(gradient.dtype).mul_(gradient).mul_(ctx.scale), None, None
