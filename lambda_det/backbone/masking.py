"""Blocks, stages and poolings that treat the padding of a batch as outside of the image.

Masks are (N, H, W) bool, True in the padding, as :func:`lambda_det.backbone.padding.padding_mask`
makes them; None = every image fills its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lambda_det.backbone.recomputation import computed_twice


def strided_mask(padding_mask: Tensor | None, stride: int) -> Tensor | None:
    """The mask behind a layer with that stride, which reads position ``stride * i`` for i."""
    if padding_mask is None or stride == 1:
        return padding_mask
    return padding_mask[:, ::stride, ::stride].contiguous()


def fill_padding_(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Set the padding of ``x`` (N, C, H, W) to zero, in place: ``x`` must be what no gradient
    needs, such as the output of a convolution or a norm."""
    return x if padding_mask is None else x.masked_fill_(padding_mask[:, None], 0)


def average_pool(pool: nn.AvgPool2d, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """``pool`` as if the image ended where its padding begins."""
    if padding_mask is None:
        return pool(x)
    padding_mask = padding_mask[:, None]
    output = pool(x.masked_fill(padding_mask, 0))
    if not pool.count_include_pad:
        # Of the pixels in a window, some are not there; windows without any are padding.
        share = pool((~padding_mask).to(x.dtype))
        output = output / torch.where(share == 0, 1, share)
    return output


class Stage(nn.Sequential):
    """Blocks after one another, each told which positions of its input are padding."""

    checkpointing = False
    """Whether training computes the inside of a block again for the backward pass."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        twice = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self:
            inputs = (x,) if padding_mask is None else (x, padding_mask)
            x = computed_twice(block, *inputs) if twice else block(*inputs)
            padding_mask = strided_mask(padding_mask, block.stride)
        return x
