"""The datasets of a run: found, checked and registered."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from lambda_det.data.class_subsets import check_categories
from lambda_det.data.coco_folder import (
    ENVIRONMENT_VARIABLE,
    KEYPOINTS,
    PREFIX,
    absolute,
    folder_splits,
    json_of,
    locate_split,
    register_coco_folder,
)
from lambda_det.data.coco_json import CocoSummary
from lambda_det.data.display_names import registered_names
from lambda_det.data.intake import summarize_coco
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

# Splits of the folder that replace the datasets named in detectron2's own configs.
STOCK_SPLITS = {
    "coco_2017_train": "train2017",
    "coco_2017_val": "val2017",
    "keypoints_coco_2017_train": f"{KEYPOINTS}train2017",
    "keypoints_coco_2017_val": f"{KEYPOINTS}val2017",
}

# Training keeps every object's mask, and its IoU with each of about 200 000 anchors, in memory.
_MAX_OBJECTS = 10_000


@dataclass(frozen=True)
class Datasets:
    """The datasets of a run, in detectron2's ``DatasetCatalog``.

    Attributes:
        train, test: their names.
        folder: absolute path of the folder in COCO layout; "" = none is used.
        classes: names of the model's classes, in the order of the contiguous ids; empty if they are
            not known.
        keypoints: names of the keypoints; empty if the model needs none, or if they are not known.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    folder: str
    classes: tuple[str, ...]
    keypoints: tuple[str, ...] = ()


def resolve_datasets(
    train: Sequence[str],
    test: Sequence[str],
    folder: str = "",
    *,
    masks: bool,
    keypoints: bool = False,
    for_training: bool = True,
    strict: bool = False,
) -> Datasets:
    """Find, check and register the datasets of a run.

    If a folder is given (``folder``, else ``LAMBDA_DET_COCO_FOLDER``), the names
    ``coco_2017_train`` and ``coco_2017_val`` mean its splits ``train2017`` and ``val2017``, and the
    name ``coco_folder_<split>``, or ``<split>`` if detectron2 has no dataset of that name, means
    that split. ``keypoints_coco_2017_train`` and ``_val`` mean ``person_keypoints_train2017`` and
    ``_val2017``. Without a folder, the names are detectron2's own datasets
    (``DETECTRON2_DATASETS``).

    Args:
        train, test: names of datasets.
        folder: a folder in COCO layout; "" takes the environment variable.
        masks: whether the model needs masks.
        keypoints: whether the model needs keypoints.
        for_training: False for an evaluation: the training sets are not read and need not exist.
        strict: whether a dataset in which something is mended or left out is refused.

    Returns:
        The datasets, in which the splits of the folder are called ``coco_folder_<split>``. A second
        call with these names returns the same.

    Raises:
        InputError: a dataset is unknown, missing or fails a check; it has no masks or keypoints
            but the model needs them; or training and test sets have different categories (those
            of a test set may be a part of the training's) or keypoints.
    """
    folder = folder or os.environ.get(ENVIRONMENT_VARIABLE, "")
    if folder:
        folder = absolute(folder)
        if not os.path.isdir(folder):
            raise InputError(f"{key('DATASETS.COCO_FOLDER')} {folder} is not a directory")
    renamed: dict[str, str] = {}
    for name in dict.fromkeys((*train, *test) if for_training else test):
        split = _split_of(name, folder)
        if split is None:
            renamed[name], summary = name, _check_registered(name, folder)
        else:
            renamed[name] = register_coco_folder(folder, split)
            summary = summarize_coco(*locate_split(folder, split))
        if summary is not None:
            if strict:
                summary.findings.refuse()
            if name in train and for_training:
                check_trainable(summary)
            _check_masks(summary, masks)
            if keypoints:
                _check_keypoints(summary)
    registered = list(renamed.values())
    trained = [renamed[name] for name in train] if for_training else []
    model = check_categories(trained, [renamed[name] for name in test])
    for name in train if not for_training else ():
        with contextlib.suppress(InputError):
            split = _split_of(name, folder)
            renamed[name] = name if split is None else PREFIX + split
    points = _common_keypoints(registered) if keypoints else ()
    return Datasets(
        train=tuple(renamed.get(name, name) for name in train),
        test=tuple(renamed.get(name, name) for name in test),
        folder=folder,
        classes=() if model is None else tuple(registered_names(MetadataCatalog.get(model))),
        keypoints=points,
    )


def _split_of(name: str, folder: str) -> str | None:
    """The split of ``folder`` that a dataset name means; None for a name in ``DatasetCatalog``."""
    if name.startswith(PREFIX):
        if not folder:
            raise InputError(
                f"dataset {name!r} needs a folder: set {key('DATASETS.COCO_FOLDER')} or the "
                f"environment variable {ENVIRONMENT_VARIABLE}"
            )
        return name.removeprefix(PREFIX)
    if folder and name in STOCK_SPLITS:
        return STOCK_SPLITS[name]
    if name in DatasetCatalog:
        return None
    if folder and json_of(folder, name):
        return name
    known = [n for n in DatasetCatalog if MetadataCatalog.get(n).get("evaluator_type") == "coco"]
    name_of_folder = key("DATASETS.COCO_FOLDER")
    hint = f"a split of a folder named by {name_of_folder}"
    if folder:
        splits = ", ".join(folder_splits(folder)) or "none"
        hint = f"a split of {name_of_folder} {folder} ({splits})"
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
            f"variable DETECTRON2_DATASETS to the folder that holds coco/, or "
            f"{key('DATASETS.COCO_FOLDER')} "
            f"to a COCO-layout folder{where if folder else ''}"
        )
    known = metadata.get("thing_classes")
    if metadata.get("evaluator_type") != "coco" or (known and name not in STOCK_SPLITS):
        return None
    summary = summarize_coco(PathManager.get_local_path(json_file), metadata.image_root)
    if known is None:
        as_written = {"thing_classes": [name for _, name in summary.categories]}
        for field, value in {**summary.metadata, **as_written}.items():  # load_coco_json sets these
            if metadata.get(field) is None:
                metadata.set(**{field: value})
    elif known != summary.class_names:
        raise InputError(
            f"dataset {name!r}: {json_file} has {len(summary.class_names)} categories that are not "
            f"COCO's {len(known)}; set {key('DATASETS.COCO_FOLDER')} to its folder instead"
        )
    return summary


def _common_keypoints(names: Iterable[str]) -> tuple[str, ...]:
    """The keypoints of the datasets' metadata, which must be the same."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        points = tuple(metadata.get("keypoint_names") or ())
        if not points or metadata.get("keypoint_flip_map") is None:
            raise InputError(
                f"dataset {name!r} has no keypoint_names and keypoint_flip_map in its metadata, "
                f"but {key('MODEL.KEYPOINT_ON')} is True"
            )
        found[name] = points
    (first, points), *others = found.items() if found else [("", ())]
    for other, theirs in others:
        if theirs != points:
            raise InputError(f"datasets {first!r} and {other!r} have different keypoints")
    return points


def check_trainable(summary: CocoSummary) -> None:
    """Check that a dataset has objects to train on, and not too many in one image.

    Raises:
        InputError: it has none, or too many.
    """
    file = f"annotation file {summary.json_file}"
    if summary.num_objects == 0:
        left_out = summary.findings.left_out()
        more = f" ({left_out} are left out)" if left_out else ""
        raise InputError(f"{file} has no annotations to train on{more}")
    most, file_name = summary.most_objects
    if most > _MAX_OBJECTS:
        raise InputError(
            f"{file}: {file_name} has {most} objects; more than {_MAX_OBJECTS} in one image do not "
            "fit into memory, cut the image into tiles"
        )


def _check_masks(summary: CocoSummary, masks: bool) -> None:
    if masks and not summary.has_masks:
        raise InputError(
            f"annotation file {summary.json_file}: no object has a segmentation, but the model "
            f"predicts masks; for boxes only, set MODEL.MASK_ON False (in a LazyConfig "
            "model.roi_heads.mask_in_features=null)"
        )


def _check_keypoints(summary: CocoSummary) -> None:
    file, name = f"annotation file {summary.json_file}", key("MODEL.KEYPOINT_ON")
    if not summary.keypoints:
        raise InputError(
            f"{file}: no category has a list 'keypoints' of names, or two have different ones, but "
            f"{name} is True"
        )
    if summary.misfit is not None:
        raise InputError(
            f"{file}: annotation id {summary.misfit} has not three numbers for each of the "
            f"{len(summary.keypoints)} keypoints, but {name} is True"
        )
