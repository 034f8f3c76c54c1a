"""Which back end ``"auto"`` takes: one rule with one number.

Nothing is timed at run time, so the choice, and with it the last bits of the result, is the same in
every run. ``"reference"`` is never taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers.recording import is_fixed

LEAST_PRODUCTS = 4_000_000
"""Multiply-adds of the convolution from which on training takes ``"banded"`` on a CPU.

The backward pass of the convolution costs several times that of ``"banded"``: with 1 to 4 heads a
training step was 1.3 to 4 times as fast with ``"banded"`` at every size that was measured from 17
million on; with 16 heads it was slower. Up to 0.8 million the many small calls of ``"banded"``
outweigh that. In inference either can be faster, the convolution at more of the sizes, so that
takes the convolution.
"""


def choose_backend(query: Tensor, value: Tensor, embedding: Tensor, available: set[str]) -> str:
    """The back end to take.

    On a CPU ``"banded"`` where a gradient is wanted and the sum has at least
    :data:`LEAST_PRODUCTS`, ``"conv"`` elsewhere. A graph that is compiled for any size gets
    ``"banded"`` there, whatever the sizes that come. On any other device ``"conv"``.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`, the embedding
            cropped to the image.
        available: names of the back ends that can run.
    """
    # On a GPU the convolution, too: "triton" is tested with Triton's interpreter, but has not been
    # timed (tools/benchmark.py layers --device cuda), so it is taken on request only.
    if query.is_cuda or "banded" not in available:
        return "conv"
    if not all(is_fixed(query.shape[axis]) for axis in (0, 3, 4)):
        return "banded"
    tensors = (query, value, embedding)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    products = value[:, 0].numel() * embedding.numel()  # N v H W x k u rh rw
    return "banded" if training and products >= LEAST_PRODUCTS else "conv"
