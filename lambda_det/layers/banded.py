"""The ``"banded"`` back end: an operator with its own backward pass around ``band_products``."""

from __future__ import annotations

from torch import Tensor

from lambda_det.layers.band_products import position_backward, position_forward
from lambda_det.layers.own_backward import position_operator

_banded = position_operator("banded", position_forward, position_backward)


def banded(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambda by products of banded matrices (:mod:`lambda_det.layers.band_products`).

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value, but at least float32, in which the
        sums are taken. Its memory is channels last if the value's is.
    """
    return _banded(query, value, embedding)
