"""The datasets that a config names: found, checked, and their classes set in the config."""

from __future__ import annotations

import contextlib
import logging
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from lambda_det.data.coco_folder import (
    ENVIRONMENT_VARIABLE,
    PREFIX,
    absolute,
    folder_splits,
    json_of,
    locate_split,
    register_coco_folder,
)
from lambda_det.data.coco_json import CocoSummary, read_coco_json
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

# Splits of the folder that replace the datasets named in detectron2's own configs.
STOCK_SPLITS = {"coco_2017_train": "train2017", "coco_2017_val": "val2017"}

# Training keeps every object's mask, and its IoU with each of about 200 000 anchors, in memory.
_MAX_OBJECTS = 10_000


def configure_datasets(cfg: CfgNode, *, for_training: bool = True) -> None:
    """Register and check the datasets of ``DATASETS.TRAIN`` and ``TEST``; set the class counts.

    If a folder is given (``DATASETS.COCO_FOLDER``, else ``LAMBDA_DET_COCO_FOLDER``), the names
    ``coco_2017_train`` and ``coco_2017_val`` mean its splits ``train2017`` and ``val2017``, and the
    name ``coco_folder_<split>``, or ``<split>`` if detectron2 has no dataset of that name, means
    that split. This function writes ``coco_folder_<split>`` and the absolute path of the folder
    into ``cfg``, so that a dumped config works from any working directory; a second call changes
    nothing. Without a folder, the names are detectron2's own datasets (``DETECTRON2_DATASETS``).

    Args:
        cfg: an unfrozen config with the keys of ``add_lambda_config``. It is changed in place
            (``DATASETS.{COCO_FOLDER,TRAIN,TEST}``, ``MODEL.{ROI_HEADS,RETINANET}.NUM_CLASSES``).
        for_training: False for an evaluation: the training sets are not read and need not exist.

    Raises:
        InputError: a dataset is unknown, missing or fails a check; it has no masks but the model
            needs them; or training and test sets have different categories.
    """
    folder = cfg.DATASETS.COCO_FOLDER or os.environ.get(ENVIRONMENT_VARIABLE, "")
    if folder:
        folder = absolute(folder)
        cfg.DATASETS.COCO_FOLDER = folder
        if not os.path.isdir(folder):
            raise InputError(f"DATASETS.COCO_FOLDER {folder} is not a directory")
    splits: dict[str, str | None] = {}
    if not for_training:
        for name in cfg.DATASETS.TRAIN:
            splits[name] = None
            with contextlib.suppress(InputError):
                splits[name] = _split_of(name, folder)
    used = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if for_training else cfg.DATASETS.TEST

    categories: dict[str, list] = {}
    for name in dict.fromkeys(used):
        split = splits[name] = _split_of(name, folder)
        if split is None:
            summary = _check_registered(name, folder)
            renamed = name
        else:
            renamed = register_coco_folder(folder, split)
            summary = read_coco_json(*locate_split(folder, split))
        if name in cfg.DATASETS.TRAIN and for_training and summary is not None:
            check_trainable(cfg, summary)
        if name in cfg.DATASETS.TEST and summary is not None:
            check_evaluable(cfg, summary)
        categories[renamed] = _categories_of(renamed)
    for key in ("TRAIN", "TEST"):
        found = ((name, splits[name]) for name in cfg.DATASETS[key])
        cfg.DATASETS[key] = tuple(n if split is None else PREFIX + split for n, split in found)
    _check_same_categories(categories)
    _set_num_classes(cfg, categories)


def _split_of(name: str, folder: str) -> str | None:
    """The split of ``folder`` that a dataset name means; None for a name in ``DatasetCatalog``."""
    if name.startswith(PREFIX):
        if not folder:
            raise InputError(
                f"dataset {name!r} needs a folder: set DATASETS.COCO_FOLDER or the environment "
                f"variable {ENVIRONMENT_VARIABLE}"
            )
        return name.removeprefix(PREFIX)
    if folder and name in STOCK_SPLITS:
        return STOCK_SPLITS[name]
    if name in DatasetCatalog:
        return None
    if folder and json_of(folder, name):
        return name
    known = [n for n in DatasetCatalog if MetadataCatalog.get(n).get("evaluator_type") == "coco"]
    hint = (
        f"a split of DATASETS.COCO_FOLDER {folder} ({', '.join(folder_splits(folder)) or 'none'})"
        if folder
        else "a split of a folder named by DATASETS.COCO_FOLDER"
    )
    raise InputError(
        f"unknown dataset {name!r}; allowed: {hint}, or one of {', '.join(sorted(known))}"
    )


def _check_registered(name: str, folder: str) -> CocoSummary | None:
    """Check a dataset of detectron2's ``DatasetCatalog``.

    The two stock COCO datasets, and COCO datasets registered without classes, are read in full. Of
    all others (LVIS, keypoints, detectron2's "minival" jsons, which contain invalid annotations)
    only the existence of the json is checked.

    Returns:
        The summary of the json; None if it was not read.
    """
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is None:
        return None
    if not PathManager.isfile(json_file):
        where = f" (the folder {folder} is used for coco_2017_train and coco_2017_val only)"
        raise InputError(
            f"dataset {name!r}: annotation file {json_file} does not exist; set the environment "
            f"variable DETECTRON2_DATASETS to the folder that holds coco/, or DATASETS.COCO_FOLDER "
            f"to a COCO-layout folder{where if folder else ''}"
        )
    known = metadata.get("thing_classes")
    if metadata.get("evaluator_type") != "coco" or (known and name not in STOCK_SPLITS):
        return None
    summary = read_coco_json(PathManager.get_local_path(json_file), metadata.image_root)
    if known is None:
        metadata.thing_classes = summary.class_names
        metadata.thing_dataset_id_to_contiguous_id = summary.contiguous_ids
    elif known != summary.class_names:
        raise InputError(
            f"dataset {name!r}: {json_file} has {len(summary.class_names)} categories that are not "
            f"COCO's {len(known)}; set DATASETS.COCO_FOLDER to its folder instead"
        )
    return summary


def _categories_of(name: str) -> list:
    """``(json's category id or None, class name)`` pairs in the order of the contiguous ids."""
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes") or []
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: dataset_id for dataset_id, contiguous in to_contiguous.items()}
    return [(ids.get(index), name) for index, name in enumerate(names)]


def _check_same_categories(categories: dict[str, list]) -> None:
    names = [name for name, pairs in categories.items() if pairs]
    for first, other in ((names[0], other) for other in names[1:]):
        mine, theirs = categories[first], categories[other]
        if None in (mine[0][0], theirs[0][0]):  # registered without ids
            mine, theirs = ([(None, name) for _, name in pairs] for pairs in (mine, theirs))
        if mine == theirs:
            continue
        both = enumerate(zip(mine, theirs, strict=False))
        at = next((i for i, (a, b) in both if a != b), None)
        detail = (
            f"{len(mine)} and {len(theirs)} of them"
            if at is None
            else f"class {at} has (id, name) {mine[at]} and {theirs[at]}"
        )
        raise InputError(f"datasets {first!r} and {other!r} have different categories: {detail}")


def _set_num_classes(cfg: CfgNode, categories: dict[str, list]) -> None:
    counted = next(((name, len(pairs)) for name, pairs in categories.items() if pairs), None)
    if counted is None:
        return
    name, count = counted
    changed = [h for h in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET) if count != h.NUM_CLASSES]
    if changed:
        logger.info("%s has %d classes; MODEL.*.NUM_CLASSES is set to that", name, count)
    for head in changed:
        head.NUM_CLASSES = count


def check_trainable(cfg: CfgNode, summary: CocoSummary) -> None:
    """Check that the model can be trained on a dataset.

    Raises:
        InputError: the dataset has no objects, or too many in one image, or it has no masks but
            the model needs them.
    """
    if summary.num_objects == 0:
        raise InputError(f"annotation file {summary.json_file} has no annotations to train on")
    most, file_name = summary.most_objects
    if most > _MAX_OBJECTS:
        raise InputError(
            f"annotation file {summary.json_file}: {file_name} has {most} objects; more than "
            f"{_MAX_OBJECTS} in one image do not fit into memory, cut the image into tiles"
        )
    _check_masks(cfg, summary)


def check_evaluable(cfg: CfgNode, summary: CocoSummary) -> None:
    """Check before the training that pycocotools can evaluate predictions on a dataset.

    Raises:
        InputError: an annotation has no ``area`` or ``iscrowd``, or no mask but the model predicts
            masks.
    """
    if summary.unevaluable is not None:
        raise InputError(
            f"annotation file {summary.json_file}: annotation id {summary.unevaluable} has no "
            "number 'area' or no 'iscrowd' of 0 or 1, which COCO's evaluation needs"
        )
    _check_masks(cfg, summary)


def _check_masks(cfg: CfgNode, summary: CocoSummary) -> None:
    if cfg.MODEL.MASK_ON and summary.unmasked is not None:
        raise InputError(
            f"annotation file {summary.json_file}: an annotation of {summary.unmasked} has no "
            "segmentation, but MODEL.MASK_ON is True; set it to False for boxes only"
        )
