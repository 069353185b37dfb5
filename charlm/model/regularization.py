"""Dropout with masks that are cheap to draw."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.model.masks import MaskKey, MaskKind

LEVELS = 1 << 16  # equally likely values of the 16 random bits behind each mask element


class Dropout(nn.Module):
    """While training, zeroes each element with probability ``p`` and scales the others so that the mean stays the same.

    ``torch.nn.Dropout`` draws one number at a time on a CPU, which takes longer than any other part of a training step
    except the recurrent kernels. Here, one 64-bit word gives four mask elements. The probability of keeping an element
    is a multiple of 1/65,536; the scale is one over exactly that probability.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1, p
        self.p = p

    def forward(
        self, inputs: Tensor, key: MaskKey | None = None, layer: int = 0, lanes: int = 1, rows: Tensor | None = None
    ) -> Tensor:
        """``inputs``: ``(time, lane, size)`` or, with ``rows``, these rows of ``(time × lane, size)``.

        ``key`` and ``layer`` determine the mask. Without a key, it depends on the state of torch's generator, and the
        inputs may have any shape.
        """
        if not self.training or not self.p:
            return inputs
        place = MaskKind.OUTPUT, layer
        if key is None:
            bits = MaskKey.random().draw(place, inputs.numel(), inputs.device).view(inputs.shape)
        else:
            steps = inputs.shape[:-1].numel() // lanes
            bits = key.draw_for_lanes(place, steps, lanes, inputs.shape[-1], inputs.device, rows)
        kept_levels = max(1, round((1 - self.p) * LEVELS))
        outputs: Tensor = _MaskAndScale.apply(inputs, bits, kept_levels)  # type: ignore[no-untyped-call]
        return outputs


class _MaskAndScale(torch.autograd.Function):
    """``inputs × mask × scale``, the same for the gradient; of the mask, 16 bits per element are saved.

    Every operation is one that torch vectorizes: operations on Booleans are several times as slow. The scale is applied
    by itself, since torch rounds a mask that contains it to the type of ``inputs``: in bf16, that moves the mean by up
    to 0.4%.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bits: Tensor, kept_levels: int) -> Tensor:
        # bits are numbers from -32,768 to 32,767
        mask = bits.lt_(kept_levels - LEVELS // 2) if kept_levels < LEVELS else torch.ones_like(bits)
        ctx.save_for_backward(mask)
        ctx.scale = LEVELS / kept_levels
        return mask.to(inputs.dtype).mul_(inputs).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return mask.to(gradient.dtype).mul_(gradient).mul_(ctx.scale), None, None
