"""The datasets and the heads of a config: what is found for them is written into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from lambda_det.checkpoint.loading import numbers_of_heads
from lambda_det.data.reading.display_names import display_names, registered_categories
from lambda_det.data.reading.intake import release
from lambda_det.data.registering.class_subsets import (
    categories_of_training,
    is_part,
    set_model_categories,
)
from lambda_det.data.registering.datasets import Datasets, resolve_datasets
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
        strict=node.STRICT,
        val_share=node.VAL_SHARE,
        skip_missing=cfg.DATALOADER.SKIP_UNREADABLE,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    heads = (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET)
    if not for_training:
        counts = [head.NUM_CLASSES for head in heads]
        found = with_classes_of_training(found, cfg.MODEL.WEIGHTS, counts)
    node.TRAIN, node.TEST = found.train, found.test
    node.COCO_FOLDER = found.folder or node.COCO_FOLDER
    count = len(found.classes)
    changed = [head for head in heads if count and count != head.NUM_CLASSES]
    if changed:
        logger.info("the datasets have %d classes; MODEL.*.NUM_CLASSES is set to that", count)
    for head in changed:
        head.NUM_CLASSES = count
    if found.keypoints:
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(found.keypoints)
    if cfg.MODEL.KEYPOINT_ON and node.TEST:
        _check_sigmas(cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)


def with_classes_of_training(
    found: Datasets, weights: str, counts: Collection[int] = ()
) -> Datasets:
    """Return the datasets of an evaluation with the classes of the model.

    The test sets of an evaluation may list a part of the classes that the model was trained with.
    If the weights have more classes, they are those of a training set whose json is on this
    machine.

    Args:
        found: what :func:`resolve_datasets` returned.
        weights: path of the model's weights; "" = none.
        counts: numbers of classes in the config. If all are that of the test sets, the weights are
            not read.

    Raises:
        InputError: the weights cannot be read.
    """
    known = len(found.classes)
    if not (weights and known and found.train) or set(counts) == {known}:
        return found
    number = numbers_of_heads(weights)[0] or 0
    for name in found.train if number > known else ():
        pairs = categories_of_training(name, found.folder)
        listed = {test: registered_categories(MetadataCatalog.get(test)) for test in found.test}
        if len(pairs) != number or not all(is_part(own, pairs) for own in listed.values()):
            continue
        logger.info("the classes are the %d of %s, as in the weights", number, name)
        for test, own in listed.items():
            set_model_categories(test, pairs if len(own) < number else None)
        return replace(found, classes=tuple(display_names(pairs)))
    return found


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
    release()
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
