"""What is known of the files of detectron2's model zoo, which do not say it themselves.

Facts of detectron2's ``configs`` and ``projects`` (main, 2026-06): every network of the zoo with an
ordinary ResNet-50 or 101 takes BGR images. Those that started from MSRA's weights divide by 1 and
have the stride in the first 1x1 convolution, and so have the new baselines from scratch (LSJ).
Three other files from scratch (GN, and SyncBN for 9x) have another deviation or stride.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lambda_det.checkpoint.architecture import Architecture, refuse_other_families
from lambda_det.checkpoint.image_format import FIRST_WEIGHT, MSRA, ImageFormat
from lambda_det.errors import InputError

AUTHOR = "Detectron2 Model Zoo"
"""The entry ``__author__`` of these files."""

_STATISTICS = "stem.conv1.norm.running_mean"  # GN has none
_SECOND_OF_RPN = "proposal_generator.rpn_head.conv.conv1.weight"  # of the new baselines only


def implied_by_zoo(
    tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> tuple[ImageFormat | None, Architecture]:
    """Return the image format and the hidden arguments of a network of detectron2's zoo.

    Args:
        tensors: of the bare backbone.
        others: of the FPN and the heads, under detectron2's names.

    Returns:
        ``(None, {})`` if the names and shapes do not tell, because networks of the zoo that have
        them differ in it.
    """
    first = tensors.get(FIRST_WEIGHT)
    is_ordinary = first is not None and tuple(first.shape) == (64, 3, 7, 7)
    try:
        refuse_other_families(tensors)
    except InputError:  # ResNeXt takes images of another deviation, and has another stride
        is_ordinary = False
    has_norms = any(".fpn_" in name and ".norm." in name for name in others)
    if (
        not is_ordinary
        or _STATISTICS not in tensors
        or (has_norms and _SECOND_OF_RPN not in others)
    ):
        return None, {}
    return MSRA, {"stride_in_1x1": True}
