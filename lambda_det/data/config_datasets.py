"""The datasets and the heads of a config: what is found for them is written into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from detectron2.config import CfgNode

from lambda_det.checkpoint.loading import numbers_of_heads
from lambda_det.data.datasets import resolve_datasets
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

_COCO_KEYPOINTS = 17


def configure_datasets(cfg: CfgNode, *, for_training: bool = True) -> None:
    """Write into a config what :func:`resolve_datasets` finds for it.

    These are ``DATASETS.{TRAIN,TEST,COCO_FOLDER}``, ``MODEL.{ROI_HEADS,RETINANET}.NUM_CLASSES``
    and, with ``MODEL.KEYPOINT_ON``, ``MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS``. The folder's path is
    absolute, so that a dumped config works from any working directory.

    Args:
        cfg: an unfrozen config with the keys of ``add_lambda_config``. It is changed in place.
        for_training: False for an evaluation.

    Raises:
        InputError: as :func:`resolve_datasets`, or ``TEST.KEYPOINT_OKS_SIGMAS`` has not one value
            for each keypoint.
    """
    node = cfg.DATASETS
    found = resolve_datasets(
        node.TRAIN,
        node.TEST,
        node.COCO_FOLDER,
        masks=cfg.MODEL.MASK_ON,
        keypoints=cfg.MODEL.KEYPOINT_ON,
        for_training=for_training,
        val_share=node.VAL_SHARE,
    )
    node.TRAIN, node.TEST = found.train, found.test
    node.COCO_FOLDER = found.folder or node.COCO_FOLDER
    count = len(found.classes)
    heads = (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET)
    changed = [head for head in heads if count and count != head.NUM_CLASSES]
    if changed:
        logger.info("the datasets have %d classes; MODEL.*.NUM_CLASSES is set to that", count)
    for head in changed:
        head.NUM_CLASSES = count
    if found.keypoints:
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(found.keypoints)
    if cfg.MODEL.KEYPOINT_ON and node.TEST:
        _check_sigmas(cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)


def configure_heads(
    cfg: CfgNode, num_classes: int | None = None, *, from_weights: bool = True
) -> None:
    """Set the numbers of classes and keypoints of a model that is used without its data.

    These are the numbers of ``MODEL.WEIGHTS``. Without such weights they are those of
    ``DATASETS.TEST``, or else of ``DATASETS.TRAIN``, as in a training; and if the data are not on
    this machine, those of the config. ``DATASETS.COCO_FOLDER`` becomes "", because nothing reads
    it after this call.

    Args:
        cfg: an unfrozen config with the keys of ``add_lambda_config``. It is changed in place.
        num_classes: number of classes, if it is known.
        from_weights: False does not read the weights.

    Raises:
        InputError: ``MODEL.WEIGHTS`` cannot be read.
    """
    counts: tuple[int | None, int | None] = None, None
    if from_weights and cfg.MODEL.WEIGHTS and (num_classes is None or cfg.MODEL.KEYPOINT_ON):
        counts = numbers_of_heads(cfg.MODEL.WEIGHTS)
    num_classes, num_keypoints = num_classes or counts[0], counts[1]
    if num_classes is None:
        for names in (cfg.DATASETS.TEST, cfg.DATASETS.TRAIN):
            with contextlib.suppress(InputError):
                found = resolve_datasets(
                    (),
                    names,
                    cfg.DATASETS.COCO_FOLDER,
                    masks=False,
                    keypoints=cfg.MODEL.KEYPOINT_ON,
                    for_training=False,
                    val_share=cfg.DATASETS.VAL_SHARE,
                )
                num_classes = len(found.classes) or None
                num_keypoints = num_keypoints or len(found.keypoints) or None
                if num_classes is not None:
                    break
    if num_classes is not None:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    if num_keypoints is not None:
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = num_keypoints
    cfg.DATASETS.COCO_FOLDER = ""


def _check_sigmas(sigmas: Sequence[float], num_keypoints: int) -> None:
    if (len(sigmas) or _COCO_KEYPOINTS) != num_keypoints or not all(s > 0 for s in sigmas):
        raise InputError(
            f"{key('TEST.KEYPOINT_OKS_SIGMAS')}={sigmas!r}: expected {num_keypoints} numbers above "
            "0, one for each keypoint (empty: those of COCO's 17, which are 0.025 to 0.107)"
        )
