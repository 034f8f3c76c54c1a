"""The images of the training set, filtered and checked before the first iteration."""

from __future__ import annotations

import itertools

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.images.image_files import ImageReading
from lambda_det.data.training_set_checks import TrainingResize, check_images
from lambda_det.errors import InputError

_ANCHOR_BASED = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet")


def training_images(cfg: CfgNode) -> list[dict]:
    """Load ``DATASETS.TRAIN`` in detectron2's dataset format, filter it as ``cfg`` says, check it.

    Raises:
        InputError: ``DATASETS.TRAIN`` is empty, no image is left after filtering, or a check of
            :func:`~lambda_det.data.images.image_checks.usable_images` or
            :func:`~lambda_det.data.training_set_checks.check_images` fails.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    source = f"DATASETS.TRAIN {names}"
    if not names:
        raise InputError("DATASETS.TRAIN is empty: training needs a dataset")
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    try:
        images = get_detection_dataset_dicts(
            names,
            filter_empty=filter_empty,
            min_keypoints=keypoints,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    except AssertionError as error:  # raised by detectron2 if no image is left
        raise InputError(
            f"{source}: no image is left to train on ({error}); images without a usable object "
            f"are filtered out (DATALOADER.FILTER_EMPTY_ANNOTATIONS {filter_empty}): crowd regions "
            "and objects whose polygons all have fewer than 3 points do not count"
        ) from error
    images = usable_images(
        images,
        source,
        ImageReading.from_config(cfg),
        skip=cfg.DATALOADER.SKIP_UNREADABLE,
        workers=cfg.DATALOADER.NUM_WORKERS,
    )
    check_images(
        images,
        names,
        resize=training_resize(cfg),
        num_classes=_num_classes(cfg),
        anchor_sizes=_anchor_sizes(cfg),
    )
    return images


def training_resize(cfg: CfgNode) -> TrainingResize:
    """How the config's augmentations resize an image."""
    if cfg.INPUT.LSJ.ENABLED:
        return TrainingResize(fit=(tuple(cfg.INPUT.LSJ.SCALE), tuple(cfg.INPUT.LSJ.SIZE)))
    sides = cfg.INPUT.MIN_SIZE_TRAIN
    sides = (sides,) if isinstance(sides, int) else tuple(sides)
    return TrainingResize(short_sides=sides, longest=cfg.INPUT.MAX_SIZE_TRAIN)


def _num_classes(cfg: CfgNode) -> int | None:
    """Number of classes of the head; None if the architecture has none or is not known here."""
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return cfg.MODEL.RETINANET.NUM_CLASSES
    has_roi_heads = cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
    return cfg.MODEL.ROI_HEADS.NUM_CLASSES if has_roi_heads else None


def _anchor_sizes(cfg: CfgNode) -> list[float]:
    if cfg.MODEL.META_ARCHITECTURE not in _ANCHOR_BASED:
        return []
    return list(itertools.chain.from_iterable(cfg.MODEL.ANCHOR_GENERATOR.SIZES))
