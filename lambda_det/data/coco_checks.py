"""Does a COCO json suit what the config wants to do with it?"""

from __future__ import annotations

from detectron2.config import CfgNode

from lambda_det.data.coco_json import CocoSummary
from lambda_det.errors import InputError

# In one image of a training: a mask of each and its overlap with each of some 200 000 anchors.
_MAX_OBJECTS = 10_000


def check_trainable(cfg: CfgNode, summary: CocoSummary) -> None:
    """Raise InputError where there is nothing to learn in the form that the model asks for."""
    if summary.num_objects == 0:
        raise InputError(f"annotation file {summary.json_file} has no annotations to train on")
    most, file_name = summary.most_objects
    if most > _MAX_OBJECTS:
        raise InputError(
            f"annotation file {summary.json_file}: {file_name} has {most} objects; more than "
            f"{_MAX_OBJECTS} in one image need more memory than machines have, cut it into parts"
        )
    _check_masks(cfg, summary)


def check_evaluable(cfg: CfgNode, summary: CocoSummary) -> None:
    """Raise InputError where pycocotools could not judge predictions by it.

    Better asked now than after the training.
    """
    if summary.unjudged is not None:
        raise InputError(
            f"annotation file {summary.json_file}: annotation id {summary.unjudged} has no number "
            "'area' or no 'iscrowd' of 0 or 1, which COCO's evaluation needs"
        )
    _check_masks(cfg, summary)


def _check_masks(cfg: CfgNode, summary: CocoSummary) -> None:
    if cfg.MODEL.MASK_ON and summary.unmasked is not None:
        raise InputError(
            f"annotation file {summary.json_file}: an annotation of {summary.unmasked} has no "
            "segmentation, but MODEL.MASK_ON is True; set it to False for boxes only"
        )
