"""Effective receptive field: how much each pixel of the image influences an output of a backbone.

It is the gradient of the output with respect to the image (Luo et al., arXiv:1701.04128).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lambda_det.errors import InputError


def receptive_field(
    backbone: nn.Module,
    image: Tensor,
    feature: str,
    position: tuple[int, int],
    *,
    channels: int = 16,
    seed: int = 0,
) -> Tensor:
    """Compute the mean of |d output / d pixel| over colours and over channels of the output.

    Args:
        backbone: a network in evaluation mode that returns features by name.
        image: (1, C, H, W), normalised input of the backbone.
        feature: name of the feature, such as ``res4``.
        position: (row, column) in the feature map.
        channels: number of random channels of the output, each of which needs a backward pass.
        seed: seed of the choice of channels.

    Returns:
        (H, W), not negative.

    Raises:
        InputError: the feature or the position does not exist.
    """
    image = image.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        outputs = backbone(image)
        if feature not in outputs:
            raise InputError(f"--feature {feature}: expected one of {', '.join(outputs)}")
        output = outputs[feature][0]
        height, width = output.shape[-2:]
        row, column = position
        if not (0 <= row < height and 0 <= column < width):
            raise InputError(f"position {row}, {column}: {feature} is {height} x {width}")
        order = torch.randperm(len(output), generator=torch.Generator().manual_seed(seed))
        chosen = order[:channels].tolist()
        field = torch.zeros_like(image[0, 0])
        for channel in chosen:
            (gradient,) = torch.autograd.grad(
                output[channel, row, column], image, retain_graph=True
            )
            field += gradient[0].abs().mean(0)
    return field / len(chosen)


def radius_holding(field: Tensor, centre: tuple[float, float], share: float = 0.5) -> float:
    """Smallest radius of a disc around ``centre`` that contains a share of a field's sum.

    Args:
        field: (H, W), not negative.
        centre: (row, column) in pixels.
        share: the share, above 0 and at most 1.

    Returns:
        The radius in pixels; NaN if the field is zero everywhere.
    """
    rows, columns = (
        torch.arange(side, dtype=torch.float64) - middle
        for side, middle in zip(field.shape, centre, strict=True)
    )
    distance = (rows[:, None] ** 2 + columns**2).sqrt().flatten()
    order = distance.argsort(stable=True)
    reached = field.detach().double().cpu().flatten()[order].cumsum(0)
    if not reached[-1] > 0:
        return float("nan")
    return float(distance[order[int((reached < share * reached[-1]).sum())]])
