"""Stages and poolings that treat the padding of a batch as lying outside the images.

Masks are (N, H, W) bool, True in the padding, as :func:`lambda_det.backbone.padding.padding_mask`
makes them. None means that no image of the batch is padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lambda_det.backbone.recomputation import computed_twice


def strided_mask(padding_mask: Tensor | None, stride: int) -> Tensor | None:
    """The mask of the output of a layer with ``stride``: output i is at input ``stride * i``."""
    if padding_mask is None or stride == 1:
        return padding_mask
    return padding_mask[:, ::stride, ::stride].contiguous()


def fill_padding_(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Set the padding of ``x`` (N, C, H, W) to zero in place and return ``x``.

    No backward pass may need the old values of ``x``. This holds for the output of a convolution or
    a norm.
    """
    return x if padding_mask is None else x.masked_fill_(padding_mask[:, None], 0)


def average_pool(pool: nn.AvgPool2d, x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Apply ``pool`` to ``x`` (N, C, H, W) as if each image ended where its padding begins."""
    if padding_mask is None:
        return pool(x)
    padding_mask = padding_mask[:, None]
    output = pool(x.masked_fill(padding_mask, 0))
    if not pool.count_include_pad:
        # Divide by the number of pixels inside the image; a window without any is padding.
        share = pool((~padding_mask).to(x.dtype))
        output = output / torch.where(share == 0, 1, share)
    return output


class Stage(nn.Sequential):
    """A sequence of blocks; each gets the mask of the padding at its own resolution."""

    checkpointing = False
    """Whether training uses activation checkpointing for every block."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        twice = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self:
            inputs = (x,) if padding_mask is None else (x, padding_mask)
            x = computed_twice(block, *inputs) if twice else block(*inputs)
            padding_mask = strided_mask(padding_mask, block.stride)
        return x
