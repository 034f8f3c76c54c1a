"""Squeeze-and-excitation (arXiv:1709.01507) that can ignore the padding of a batch."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from lambda_det.layers.precision import at_least_float32


class SqueezeExcitation(torchvision.ops.SqueezeExcitation):
    """torchvision's SqueezeExcitation, whose average can leave out masked positions."""

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Scale the channels of every image by a gate made from their averages.

        Args:
            x: (N, C, H, W).
            padding_mask: (N, H, W) bool, True where a position is not part of the image. Values
                at such positions do not affect the gate.

        Returns:
            (N, C, H, W). The padding is scaled as well.
        """
        mean = self.avgpool(x) if padding_mask is None else masked_mean(x, padding_mask)
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(mean))))


def masked_mean(x: Tensor, padding_mask: Tensor) -> Tensor:
    """Average ``x`` (N, C, H, W) over the positions where ``padding_mask`` (N, H, W) is False.

    Returns:
        (N, C, 1, 1), zero for an image whose mask is True everywhere. The sum is taken in at least
        float32.
    """
    inside = (~padding_mask).sum(dim=(-2, -1))[:, None, None, None].clamp_min(1)
    image = x.masked_fill(padding_mask[:, None], 0)
    total = torch.sum(image, dim=(-2, -1), keepdim=True, dtype=at_least_float32(x.dtype))
    return (total / inside).to(x.dtype)
