"""The datasets of a run: found, checked and registered."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from lambda_det.data.reading.coco_json import CocoSummary
from lambda_det.data.reading.display_names import registered_names
from lambda_det.data.reading.intake import load_coco, summarize_coco
from lambda_det.data.reading.layouts import STOCK_SPLITS, Layout, Split, absolute, find_layout
from lambda_det.data.reading.values import is_finite
from lambda_det.data.registering.class_subsets import check_categories
from lambda_det.data.registering.coco_folder import (
    ENVIRONMENT_VARIABLE,
    PREFIX,
    register_split,
)
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

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
    val_share: float = 0.0,
    skip_missing: bool = False,
    detections_per_image: int = -1,
) -> Datasets:
    """Find, check and register the datasets of a run.

    If a folder is given (``folder``, else ``LAMBDA_DET_COCO_FOLDER``), the names
    ``coco_2017_train`` and ``coco_2017_val`` mean its training and its validation split, and the
    name ``coco_folder_<split>``, or ``<split>`` if detectron2 has no dataset of that name, means
    that split. ``keypoints_coco_2017_train`` and ``_val`` mean the splits that are called
    ``person_keypoints_…``, if there are any. Without a folder, the names are detectron2's own
    datasets (``DETECTRON2_DATASETS``).

    Args:
        train, test: names of datasets.
        folder: a folder, or a json, in one of the layouts of
            :func:`~lambda_det.data.reading.layouts.find_layout`; "" takes the environment variable.
        masks: whether the model needs masks.
        keypoints: whether the model needs keypoints.
        for_training: False for an evaluation: the training sets are not read and need not exist.
        strict: whether a dataset in which something is mended or left out is refused.
        val_share: if the folder has no validation split, the share of the images of the training
            split that ``coco_2017_val`` means; ``coco_2017_train`` means the rest. 0 = none.
        skip_missing: whether images of a dataset may be missing.
        detections_per_image: most detections that the model gives; more objects in a test image are
            a warning. -1 = all.

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
        if not os.path.exists(folder):
            raise InputError(f"{key('DATASETS.COCO_FOLDER')} {folder} is not a directory")
    if not is_finite(val_share) or not 0 <= val_share < 1:
        raise InputError(
            f"{key('DATASETS.VAL_SHARE')}={val_share!r}: expected a number from 0 to below 1"
        )
    layout = functools.cache(lambda: find_layout(folder, val_share=val_share))
    renamed: dict[str, str] = {}
    for name in dict.fromkeys((*train, *test) if for_training else test):
        split = _split_of(name, layout if folder else None)
        if split is None:
            renamed[name], summary = name, _check_registered(name, folder, skip_missing)
        else:
            _log_once(str(layout()))
            renamed[name] = register_split(split, skip_missing=skip_missing)
            summary = summarize_coco(split.json_file, split.images, skip_missing=skip_missing)
        if summary is not None:
            if strict:
                summary.findings.refuse()
            if name in train and for_training:
                check_trainable(summary)
            if name in test:
                _warn_of_many(summary, detections_per_image)
            _check_masks(summary, masks)
            if keypoints:
                _check_keypoints(summary)
    registered = list(renamed.values())
    trained = [renamed[name] for name in train] if for_training else []
    model = check_categories(trained, [renamed[name] for name in test])
    for name in train if not for_training else ():
        with contextlib.suppress(InputError):
            split = _split_of(name, layout if folder else None)
            renamed[name] = name if split is None else PREFIX + split.name
    if val_share and train and for_training:
        _check_use(val_share, [renamed[name] for name in (*train, *test)])
    points = _common_keypoints(registered) if keypoints else ()
    return Datasets(
        train=tuple(renamed.get(name, name) for name in train),
        test=tuple(renamed.get(name, name) for name in test),
        folder=folder,
        classes=() if model is None else tuple(registered_names(MetadataCatalog.get(model))),
        keypoints=points,
    )


def _split_of(name: str, layout: Callable[[], Layout] | None) -> Split | None:
    """The split of the folder that a dataset name means; None for a name in ``DatasetCatalog``.

    Args:
        name: name of the dataset.
        layout: returns the layout of the folder; None = no folder is named.
    """
    if layout is None:
        if name in DatasetCatalog and not name.startswith(PREFIX):
            return None
        near = difflib.get_close_matches(name, [*DatasetCatalog], n=1)
        what = f"unknown dataset {name!r}" + (f" (nearest: {near[0]!r})" if near else "")
        if name.startswith(PREFIX):
            what = f"dataset {name!r} needs a folder"
        raise InputError(
            f"{what}: set {key('DATASETS.COCO_FOLDER')} or the environment variable "
            f"{ENVIRONMENT_VARIABLE} to the folder of its images and annotations"
        )
    if name.startswith(PREFIX):
        return layout().split(name.removeprefix(PREFIX))
    if name in STOCK_SPLITS:
        return layout().split_of_role(*STOCK_SPLITS[name])
    if name in DatasetCatalog:
        return None
    if name in [split.name for split in (*layout().splits, *layout().hidden)]:
        return layout().split(name)
    raise InputError(
        f"unknown dataset {name!r}; allowed: a split of {key('DATASETS.COCO_FOLDER')} "
        f"{layout().path} ({', '.join(layout().names)}), or coco_2017_train and coco_2017_val for "
        "those of training and validation"
    )


@functools.cache
def _log_once(text: str) -> None:
    logger.info("%s", text)


def _check_use(val_share: float, names: Sequence[str]) -> None:
    if not any(MetadataCatalog.get(name).get("part_of_json") for name in names):
        raise InputError(
            f"{key('DATASETS.VAL_SHARE')}={val_share} divides coco_2017_train and coco_2017_val of "
            f"{key('DATASETS.COCO_FOLDER')}, none of which is among the datasets {', '.join(names)}"
        )


def _check_registered(name: str, folder: str, skip_missing: bool) -> CocoSummary | None:
    """Check a dataset of detectron2's ``DatasetCatalog``.

    The two stock COCO datasets, and COCO datasets registered without classes, are read in full, and
    from now on as those of a folder are, unless a user's own function reads them. Of all others
    (LVIS, keypoints, detectron2's "minival" jsons, which contain invalid annotations) only the
    existence of the json is checked.

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
    if metadata.get("evaluator_type") == "lvis" and importlib.util.find_spec("lvis") is None:
        raise InputError(f"dataset {name!r} is read by the package lvis: pip install lvis")
    known = metadata.get("thing_classes")
    if metadata.get("evaluator_type") != "coco" or (known and name not in STOCK_SPLITS):
        return None
    path, images = PathManager.get_local_path(json_file), metadata.image_root
    summary = summarize_coco(path, images, skip_missing=skip_missing)
    if DatasetCatalog.data[name].__module__.startswith("detectron2."):  # by its load_coco_json
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, functools.partial(load_coco, path, images))
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


def _warn_of_many(summary: CocoSummary, detections_per_image: int) -> None:
    most, file_name = summary.most_objects
    if 0 <= detections_per_image < most:
        logger.warning(
            "annotation file %s: %s has %d objects, and %s is %d: the others count as not found",
            summary.json_file, file_name, most, key("TEST.DETECTIONS_PER_IMAGE"),
            detections_per_image,
        )  # fmt: skip


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
