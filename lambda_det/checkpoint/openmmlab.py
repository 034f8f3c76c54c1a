"""What is known of checkpoints of mmdet, mmpretrain and their relatives (OpenMMLab).

Their ResNets have torchvision's names in both styles: ``pytorch``, and ``caffe``, which has the
stride in the first 1x1 convolution and mostly takes MSRA's images. The text of the config, which
trainings write beside the weights (``meta["config"]`` of mmcv, ``meta["cfg"]`` of mmengine), tells
which of the two it is, and the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lambda_det.checkpoint.architecture import Architecture
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.checkpoint.tensors import plain_entries

_VERSIONS = ("mmcv_version", "mmengine_version", "mmdet_version", "mmpretrain_version")
_PARTS = frozenset(("neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head"))
_LONGEST = 2**20  # characters of a config; mmdet's have some thousands

_STYLE = re.compile(r"\bstyle\s?=\s?['\"](\w{1,20})['\"]")
_MEAN, _STD = (
    re.compile(rf"\b{name}\s?=\s?[\[(]([^\[\]()]{{1,200}})[\])]") for name in ("mean", "std")
)
_IS_RGB = re.compile(r"\b(?:bgr_)?to_rgb\s?=\s?(True|False)\b")


def implied_by_openmmlab(
    siblings: Mapping[str, object], others: Iterable[str]
) -> tuple[ImageFormat | None, Architecture] | None:
    """Return the image format and the hidden arguments of a network of OpenMMLab.

    Args:
        siblings: the entries of the file beside its tensors.
        others: names of the tensors outside of the backbone.

    Returns:
        None for a file of other programs. ``(None, {})`` if the file has no config, or one with
        several networks or image formats, so that nobody can tell.
    """
    meta = plain_entries(siblings.get("meta")) or {}
    texts = [text for key in ("config", "cfg") if isinstance(text := meta.get(key), str)]
    is_theirs = texts or "message_hub" in siblings or any(v in meta for v in _VERSIONS)
    if not is_theirs and not any(_PARTS & {*name.split(".")[:2]} for name in others):
        return None
    if not texts or len(texts[0]) > _LONGEST:
        return None, {}
    styles = set(_STYLE.findall(texts[0])) or {"pytorch"}  # the default of their ResNet
    known = len(styles) == 1 and styles <= {"pytorch", "caffe"}
    hidden: Architecture = {"stride_in_1x1": styles == {"caffe"}} if known else {}
    return _images(texts[0]), hidden


def _images(text: str) -> ImageFormat | None:
    """Return the image format in a config; None if there is none, or more than one."""
    orders = {*_IS_RGB.findall(text)}
    try:
        means, stds = (
            {tuple(map(float, values.strip().rstrip(",").split(","))) for values in found}
            for found in (_MEAN.findall(text), _STD.findall(text))
        )
        [order], [mean], [std] = orders, means, stds
        values = {"channel_order": "RGB" if order == "True" else "BGR"}
        return ImageFormat.from_dict(values | {"pixel_mean": mean, "pixel_std": std})
    except ValueError:
        return None
