"""The rule by which ``backend="auto"`` chooses a back end where nothing is measured
(:mod:`lambda_det.layers.autotune`).

The choice, and with it the last bits of the result, is the same in every run on a machine. The rule
never chooses ``"reference"``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers import native_lambda
from lambda_det.layers.recording import is_fixed

LEAST_PRODUCTS = 4_000_000
"""On a CPU without ``"native"``, training uses ``"banded"`` if the convolution has at least this
many multiply-adds.

The backward pass of the convolution costs several times that of ``"banded"``. With 1 to 4 heads a
training step was 1.3 to 4 times as fast with ``"banded"`` at every measured size from 17 million
multiply-adds on; with 16 heads it was slower. At up to 0.8 million the many small calls of
``"banded"`` outweigh the gain. In inference either back end can be faster, but the convolution is
faster at more of the sizes, so inference uses the convolution.
"""


def choose_backend(query: Tensor, value: Tensor, embedding: Tensor) -> str:
    """Choose the back end for these arguments.

    On a CPU the choice is ``"native"`` if its kernels are there or can be compiled. It was the
    fastest at every measured size but for inference with 16 and 32 heads on 14 x 14 positions.
    Without them, it is ``"banded"`` if a gradient is needed and the convolution has at least
    :data:`LEAST_PRODUCTS` multiply-adds, or if a graph is compiled for dynamic sizes, and
    ``"conv"`` otherwise. On a GPU the choice is ``"conv"``.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`, the embedding
            cropped to the image.

    Returns:
        ``"native"``, ``"banded"`` or ``"conv"``.
    """
    # "triton" is taken on a GPU where it was measured to be right and faster, and not by a rule.
    if query.is_cuda:
        return "conv"
    tensors = (query, value, embedding)
    reason = native_lambda.unsupported(*tensors)
    if reason is None:
        return "native"
    chosen = _without_native(*tensors)
    if query.device.type == "cpu":
        native_lambda.log_fallback(reason, chosen)
    return chosen


def _without_native(query: Tensor, value: Tensor, embedding: Tensor) -> str:
    tensors = (query, value, embedding)
    if not all(is_fixed(query.shape[axis]) for axis in (0, 3, 4)):
        return "banded"
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    products = value[:, 0].numel() * embedding.numel()  # N v H W x k u rh rw
    return "banded" if training and products >= LEAST_PRODUCTS else "conv"
