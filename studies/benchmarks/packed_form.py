"""The position lambda as a convolution for tensor cores: several columns become channels.

The convolution of ``"conv"`` has one input channel (for u = 1) and k output channels. Tensor cores
multiply 4 channels of float32 (as TensorFloat-32), or 8 of a half type, and 32 output channels at
least, so that most of their products would be with zeros. Here ``width`` columns of a row are the
input channels and the output channels of one position: in channels-last order, the memory of the
values stays the same. The kernel is a band of copies of the embedding, in which
``(2 * blocks + 1) * width`` columns stand for the window's; the others are zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.precision import at_least_float32, common_dtype


def packed(query: Tensor, value: Tensor, embedding: Tensor, *, width: int) -> Tensor:
    """Compute :func:`lambda_det.layers.position_lambda` with ``width`` columns as channels.

    Returns:
        (N, h, v, H, W) in at least float32, in which the sums are taken.
    """
    dtype = at_least_float32(common_dtype(query, value, embedding))
    query, value, embedding = (tensor.to(dtype) for tensor in (query, value, embedding))
    images, heads, depth, height, columns = query.shape
    sets, channels = value.shape[1:3]
    missing = -columns % width

    # v before N, so that one stride leads from a position of any image to the next one.
    rows = _wider(value.permute(2, 0, 3, 1, 4), missing).unflatten(-1, (-1, width))
    rows = rows.permute(0, 1, 2, 4, 3, 5).reshape(channels * images, height, -1, sets * width)
    kernel, blocks = banded_kernel(embedding, width)
    lambdas = F.conv2d(
        rows.permute(0, 3, 1, 2),
        kernel.contiguous(memory_format=torch.channels_last),
        padding=(embedding.shape[2] // 2, blocks),
    )
    lambdas = lambdas.permute(0, 2, 3, 1).reshape(channels, -1, depth)
    queries = _wider(query, missing).permute(0, 3, 4, 1, 2).reshape(-1, heads, depth)
    output = torch.bmm(queries, lambdas.permute(1, 2, 0))
    output = output.view(images, height, columns + missing, heads, channels)
    return output.permute(0, 3, 4, 1, 2)[..., :columns]


def _wider(x: Tensor, missing: int) -> Tensor:
    return F.pad(x, (0, missing)) if missing else x  # F.pad copies in any case


def banded_kernel(embedding: Tensor, width: int) -> tuple[Tensor, int]:
    """The kernel for ``width`` columns as channels.

    Args:
        embedding: (k, u, rh, rw).
        width: number of columns.

    Returns:
        (width * k, u * width, rh, 2 * blocks + 1), and ``blocks``: how many blocks of columns the
        window reaches to either side.
    """
    half = embedding.shape[3] // 2
    blocks = -(-half // width)
    edge = blocks * width + width - 1 - half
    padded = F.pad(embedding, (edge, edge))
    length = (2 * blocks + 1) * width
    starts = range(width - 1, -1, -1)  # output column 0 sees the window one column further right
    bands = torch.stack([padded[..., start : start + length] for start in starts])
    bands = bands.unflatten(-1, (-1, width))  # column, k, u, rh, block, column of the block
    return bands.permute(0, 1, 2, 5, 3, 4).flatten(0, 1).flatten(1, 2), blocks
