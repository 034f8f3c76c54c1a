"""Any folder in COCO layout as a detectron2 dataset, named by a path.

``DATASETS.COCO_FOLDER`` or the environment variable ``LAMBDA_DET_COCO_FOLDER`` names the folder.
The classes, their contiguous ids and their number come from its json, never from the user.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from lambda_det.data.coco_checks import check_evaluable, check_trainable
from lambda_det.data.coco_json import CocoSummary, read_coco_json
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "LAMBDA_DET_COCO_FOLDER"
PREFIX = "coco_folder_"
# What the names in detectron2's own configs mean when a folder is given.
STOCK_SPLITS = {"coco_2017_train": "train2017", "coco_2017_val": "val2017"}

# COCO keeps annotations of other kinds beside the instances; they are not splits of ours.
_OTHER_ANNOTATIONS = re.compile(r"^(captions|image_info|panoptic|person_keypoints|stuff)_")


def register_coco_folder(root: str, split: str) -> str:
    """Register one split of a COCO-layout folder with detectron2 and return its dataset name.

    The json is ``<root>/annotations/instances_<split>.json``, or ``<split>.json`` beside it; the
    images lie in ``<root>/<split>/``, ``<root>/images/<split>/`` or ``<root>/images/``, the first
    that exists. The name is ``coco_folder_<split>``; an earlier registration of that name is
    replaced. The data are loaded by detectron2's ``load_coco_json`` when first asked for; the
    metadata (classes, contiguous ids) are there at once.

    Raises:
        InputError: no such folder, json or image directory, or the json fails a check of
            :func:`lambda_det.data.coco_json.read_coco_json`.
    """
    json_file, image_root = locate_split(root, split)
    summary = read_coco_json(json_file, image_root)
    name = PREFIX + split
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=summary.class_names,
        thing_dataset_id_to_contiguous_id=summary.contiguous_ids,
    )
    return name


def register_splits(root: str) -> list[str]:
    """Register every split of a folder that is not registered yet, without reading a json.

    For scripts that know nothing of :func:`configure_datasets`. The checks and the classes of
    :func:`register_coco_folder` come when a dataset is first asked for.

    Returns:
        ``coco_folder_<split>`` of every split with a json and images; none where there is no such
        folder.
    """
    names = []
    for split in folder_splits(root):
        with contextlib.suppress(InputError):
            json_file, image_root = locate_split(root, split)
            names.append(PREFIX + split)
            if PREFIX + split not in DatasetCatalog:
                read = functools.partial(_read, PREFIX + split, json_file, image_root)
                DatasetCatalog.register(PREFIX + split, read)
                MetadataCatalog.get(PREFIX + split).set(
                    json_file=json_file, image_root=image_root, evaluator_type="coco"
                )
    return names


def _read(name: str, json_file: str, image_root: str) -> list[dict]:
    summary = read_coco_json(json_file, image_root)
    MetadataCatalog.get(name).set(
        thing_classes=summary.class_names,
        thing_dataset_id_to_contiguous_id=summary.contiguous_ids,
    )
    return load_coco_json(json_file, image_root, name)


def locate_split(root: str, split: str) -> tuple[str, str]:
    """Absolute paths of the json and of the image directory of ``split`` in the folder ``root``.

    Raises:
        InputError: the folder, the json or the image directory does not exist.
    """
    root = _absolute(root)
    if not os.path.isdir(root):
        raise InputError(f"DATASETS.COCO_FOLDER {root} is not a directory")
    json_file = _json_of(root, split)
    if json_file is None:
        expected = os.path.join(root, "annotations", f"instances_{split}.json")
        raise InputError(
            f"annotation file {expected} does not exist; "
            f"splits of this COCO folder: {', '.join(folder_splits(root)) or 'none'}"
        )
    candidates = (
        os.path.join(root, split),
        os.path.join(root, "images", split),
        os.path.join(root, "images"),
    )
    for image_root in candidates:
        if os.path.isdir(image_root):
            return json_file, image_root
    raise InputError(
        f"no image directory for split {split!r} of the COCO folder {root}: "
        f"none of {', '.join(candidates)} exists"
    )


def folder_splits(root: str) -> list[str]:
    """Names of the splits that have a json in ``<root>/annotations``, sorted."""
    try:
        files = os.listdir(os.path.join(root, "annotations"))
    except OSError:
        return []
    stems = (file.removesuffix(".json") for file in files if file.endswith(".json"))
    return sorted({s.removeprefix("instances_") for s in stems if not _OTHER_ANNOTATIONS.match(s)})


def configure_datasets(cfg: CfgNode, *, for_training: bool = True) -> None:
    """Register what ``DATASETS.TRAIN`` and ``TEST`` name, check it, and set the class counts.

    With a folder (``DATASETS.COCO_FOLDER``, else ``LAMBDA_DET_COCO_FOLDER``), ``coco_2017_train``
    and ``coco_2017_val`` mean its splits ``train2017`` and ``val2017``; ``coco_folder_<split>``,
    or ``<split>`` where detectron2 knows no dataset of that name, mean that split. The names in
    ``cfg`` become ``coco_folder_<split>`` and the folder an absolute path, so that a dumped
    configuration means the same elsewhere in the file system; applying this twice changes nothing.
    Without a folder, detectron2's own datasets (``DETECTRON2_DATASETS``) are used.

    Args:
        cfg: an unfrozen configuration with the keys of ``add_lambda_config``; changed in place
            (``DATASETS.{COCO_FOLDER,TRAIN,TEST}``, ``MODEL.{ROI_HEADS,RETINANET}.NUM_CLASSES``).
        for_training: False for evaluation only: the training sets are neither read nor required.

    Raises:
        InputError: a dataset is unknown or missing, fails a check, does not suit the model's masks,
            or training and test sets have different categories.
    """
    folder = cfg.DATASETS.COCO_FOLDER or os.environ.get(ENVIRONMENT_VARIABLE, "")
    if folder:
        folder = _absolute(folder)
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
    """The split of ``folder`` that a dataset name means; None for one of detectron2's catalog."""
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
    if folder and _json_of(folder, name):
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
    """Check a dataset of detectron2's catalog as far as its metadata let us.

    The two stock COCO sets and sets registered without classes are read in full. For every other
    one (LVIS, keypoints, the buggy "minival" jsons) only the presence of the json is checked.
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
            f"COCO's {len(known)}; name its folder by DATASETS.COCO_FOLDER instead"
        )
    return summary


def _categories_of(name: str) -> list:
    """``(dataset id, class name)`` pairs in contiguous order; the ids None where not known."""
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes") or []
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    ids = {contiguous: dataset_id for dataset_id, contiguous in to_contiguous.items()}
    return [(ids.get(index), name) for index, name in enumerate(names)]


def _check_same_categories(categories: dict[str, list]) -> None:
    names = [name for name, pairs in categories.items() if pairs]
    for first, other in ((names[0], other) for other in names[1:]):
        mine, theirs = categories[first], categories[other]
        if None in (mine[0][0], theirs[0][0]):  # registered without the ids of its json
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
        logger.info("%s has %d classes: set in MODEL.*.NUM_CLASSES", name, count)
    for head in changed:
        head.NUM_CLASSES = count


def _json_of(root: str, split: str) -> str | None:
    for file in (f"instances_{split}.json", f"{split}.json"):
        path = os.path.join(root, "annotations", file)
        if os.path.isfile(path):
            return path
    return None


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
