"""The layouts in which tools export a dataset: a path in, its splits out.

A split is a json in COCO's format and the folder of its images. No json is read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lambda_det.errors import InputError, key

KEYPOINTS = "person_keypoints_"
TRAINING, VALIDATION = "training", "validation"
REST, SHARE = "_rest", "_share"
"""Ends of the names of the two parts that ``DATASETS.VAL_SHARE`` makes of a split."""

STOCK_SPLITS = {
    "coco_2017_train": (TRAINING, ""),
    "coco_2017_val": (VALIDATION, ""),
    "keypoints_coco_2017_train": (TRAINING, KEYPOINTS),
    "keypoints_coco_2017_val": (VALIDATION, KEYPOINTS),
}
"""Names of the datasets in detectron2's own configs -> the split of a folder that they mean, and
the beginning of its name."""

# The name that COCO itself gives to the split, and what the names of others begin with.
_ROLES = {
    TRAINING: ("train2017", re.compile(r"train(ing)?(?![a-z])", re.IGNORECASE)),
    VALIDATION: ("val2017", re.compile(r"val(id(ation)?)?(?![a-z])", re.IGNORECASE)),
    "test": ("test2017", re.compile(r"test(ing)?(?![a-z])", re.IGNORECASE)),
}
# COCO keeps annotations of other kinds in the same folder; these files are not splits.
_OTHER_ANNOTATIONS = re.compile(r"^(captions|image_info|panoptic|person_keypoints|stuff)_")
# Tool, its json, and the folder of the images, which is the json's own if that does not exist. The
# json is in the dataset's folder, or there is one in the folder of each split.
_EXPORTS = (
    ("Roboflow", "_annotations.coco.json", ""),
    ("Label Studio", "result.json", "images"),
    ("Label Studio", "result_coco.json", "images"),
    ("FiftyOne", "labels.json", "data"),
    ("labelme", "annotations.json", "JPEGImages"),
    ("labelme2coco", "dataset.json", "images"),
)
_LOOKED_FOR = (
    "annotations/*.json (COCO, CVAT, Datumaro), "
    + ", ".join(f"{file} ({tool})" for tool, file, _ in _EXPORTS)
    + ", train.json and val.json (labelme2coco)"
)
_ALONE = "train"  # name of the split of an export that has one, except Roboflow's
_MOST_ENTRIES = 8  # of a folder that a message lists


@dataclass(frozen=True)
class Split:
    """A split of a dataset.

    Attributes:
        name: its name.
        json_file: absolute path of its json.
        images: absolute path of the folder of its images; "" if there is none.
        part: :data:`REST` or :data:`SHARE` for a part of its images; "" for all.
        val_share: the share of its images that is the part :data:`SHARE`; 0 if it has no parts.
    """

    name: str
    json_file: str
    images: str
    part: str = ""
    val_share: float = 0.0


@dataclass(frozen=True)
class Layout:
    """The layout of a dataset on the disk.

    Attributes:
        tool: the tool that exports this layout.
        path: absolute path of the folder or of the json.
        splits: the splits, sorted by name.
        hidden: annotations of other kinds, such as ``person_keypoints_val2017``, which are splits
            only where they are named.
        val_share: share of the images of the training split that is the validation split.
    """

    tool: str
    path: str
    splits: tuple[Split, ...]
    hidden: tuple[Split, ...] = ()
    val_share: float = 0.0

    def __str__(self) -> str:
        folders = [split.images or "no folder" for split in self.splits]
        texts = [f"{n} (images in {f})" for n, f in zip(self.names, folders, strict=True)]
        return f"{self.path} is in the layout of {self.tool}; its splits: {', '.join(texts)}"

    @property
    def names(self) -> list[str]:
        """Names of the splits."""
        return [split.name for split in self.splits]

    def split(self, name: str) -> Split:
        """Return the split of a name.

        Raises:
            InputError: there is no such split, or no folder of its images.
        """
        known = {split.name: split for split in (*self.splits, *self.hidden)}
        ends = (REST, SHARE) if name not in known else ()
        part = next(filter(name.endswith, ends), "")
        whole = known.get(name.removesuffix(part))
        if whole is None:
            raise InputError(self._missing(name))
        if part and not self.val_share:
            raise InputError(
                f"dataset {name!r} is a part of the split {whole.name!r} of {self.path}: set "
                f"{key('DATASETS.VAL_SHARE')}, such as 0.1"
            )
        if not whole.images:
            folders = ", ".join(_folders_of_coco(self.path, whole.name))
            raise InputError(
                f"no image directory for split {whole.name!r} of {self.path} ({self.tool}): none "
                f"of {folders} exists"
            )
        return replace(whole, name=name, part=part, val_share=self.val_share if part else 0.0)

    def split_of_role(self, role: str, prefix: str = "") -> Split:
        """Return the training or the validation split.

        Args:
            role: :data:`TRAINING` or :data:`VALIDATION`.
            prefix: beginning of the names of splits that are taken if there are any.

        Raises:
            InputError: there is none, or several may be meant; or there is one of validation
                although ``val_share`` is above 0.
        """
        own = [split.name for split in self.hidden if prefix and split.name.startswith(prefix)]
        names = [name.removeprefix(prefix) for name in own] or self.names
        prefix = prefix if own else ""
        part = ""
        if self.val_share:
            if known := _of_role(names, VALIDATION):
                raise InputError(
                    f"{key('DATASETS.VAL_SHARE')}={self.val_share}: {self.path} has a validation "
                    f"split ({', '.join(known)}), so that no other is made; set it to 0"
                )
            role, part = TRAINING, REST if role == TRAINING else SHARE
        found = _of_role(names, role)
        if len(found) > 1:
            raise InputError(
                f"{key('DATASETS.COCO_FOLDER')} {self.path} has several {role} splits "
                f"({', '.join(found)}): name those that you mean in {key('DATASETS.TRAIN')} and "
                f"{key('DATASETS.TEST')}"
            )
        if not found:
            raise InputError(self._missing(prefix + _ROLES[role][0], role))
        return self.split(prefix + found[0] + part)

    def _missing(self, name: str, role: str = "") -> str:
        if self.tool == "COCO":
            expected = os.path.join(self.path, "annotations", f"instances_{name}.json")
            text = f"annotation file {expected} does not exist; splits of this COCO folder: "
        else:
            what = f"{role} split" if role else f"split {name!r}"
            text = f"{key('DATASETS.COCO_FOLDER')} {self.path} ({self.tool}) has no {what}; it has "
        text += ", ".join(self.names)
        to_learn = [own for own in self.names if not _ROLES["test"][1].match(own)]
        if role == VALIDATION and len(to_learn) == 1 == len(_of_role(to_learn, TRAINING)):
            text += f"; {key('DATASETS.VAL_SHARE')} 0.1 keeps a tenth of its images for validation"
        return text


def find_layout(path: str, *, val_share: float = 0.0) -> Layout:
    """Detect the layout of a dataset.

    Args:
        path: a folder, or a json in COCO's format.
        val_share: see :class:`Layout`.

    Raises:
        InputError: the path does not exist, or the layout is not known.
    """
    path, name = absolute(path), key("DATASETS.COCO_FOLDER")
    if os.path.isfile(path) and path.endswith(".json"):
        return Layout("a COCO json", path, (_of_json(path),), val_share=val_share)
    if not os.path.isdir(path):
        raise InputError(f"{name} {path} is not a directory and not a json file")
    try:
        found, entries = _layout_of(path), _entries(path)
        below = [] if found else [one for one in _folders_in(path) if _layout_of(one)]
    except OSError as error:
        raise InputError(f"{name} {path} cannot be read: {error.strerror}") from error
    if found is None:
        hint = f"; {below[0]} is such a folder: name that" if len(below) == 1 else ""
        raise InputError(
            f"{name} {path} is a folder without annotations in a known layout; looked for: "
            f"{_LOOKED_FOR}; found: {_some(entries)}{hint}"
        )
    return replace(found, val_share=val_share)


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _layout_of(folder: str) -> Layout | None:
    """The layout of a folder, without a share; None if it is not known."""
    return _in_annotations(folder) or _exports(folder) or _jsons_of_splits(folder)


def _in_annotations(root: str) -> Layout | None:
    """COCO's own layout, which CVAT and Datumaro export, too."""
    try:
        files = os.listdir(os.path.join(root, "annotations"))
    except OSError:
        return None
    paths = {}
    for file in sorted(files, key=lambda file: file.startswith("instances_")):  # these win
        path = os.path.join(root, "annotations", file)
        if file.endswith(".json") and os.path.isfile(path):
            paths[file.removesuffix(".json").removeprefix("instances_")] = path
    splits = [Split(name, paths[name], _images_of_coco(root, name)) for name in sorted(paths)]
    hidden = tuple(split for split in splits if _OTHER_ANNOTATIONS.match(split.name))
    shown = tuple(split for split in splits if split not in hidden)
    if not shown:  # CVAT writes keypoints without instances
        shown = tuple(split for split in hidden if split.name.startswith(KEYPOINTS))
    tool = "CVAT" if [split.name.removeprefix(KEYPOINTS) for split in shown] == ["default"] else ""
    return Layout(tool or "COCO", root, shown, hidden) if shown else None


def _folders_of_coco(root: str, split: str) -> tuple[str, ...]:
    name = split.removeprefix(KEYPOINTS)
    parts = ((name,), ("images", name), ("images",))
    return tuple(os.path.join(root, *part) for part in parts)


def _images_of_coco(root: str, split: str) -> str:
    return next(filter(os.path.isdir, _folders_of_coco(root, split)), "")


def _exports(root: str) -> Layout | None:
    """One of the exports whose json has a name of its own."""
    if (own := _export(root)) is not None:
        tool, split = own
        return Layout(tool, root, (_of_json(split.json_file),))
    found = [export for folder in _folders_in(root) if (export := _export(folder))]
    splits = tuple(split for _, split in found)
    return Layout(found[0][0], root, splits) if found else None


def _export(folder: str) -> tuple[str, Split] | None:
    for tool, file, images in _EXPORTS:
        path = os.path.join(folder, file)
        if os.path.isfile(path):
            return tool, Split(os.path.basename(folder), path, _first_folder(folder, images))
    return None


def _jsons_of_splits(root: str) -> Layout | None:
    """``train.json``, ``val.json`` and the like beside each other."""
    files = [name for name in _entries(root) if name.endswith(".json")]
    names = sorted(file.removesuffix(".json") for file in files)
    names = [name for name in names if any(rule.match(name) for _, rule in _ROLES.values())]
    splits = tuple(_of_json(os.path.join(root, f"{name}.json")) for name in names)
    return Layout("labelme2coco", root, splits) if splits else None


def _of_json(path: str) -> Split:
    """The split of a json that is named by its path."""
    folder, file = os.path.split(path)
    name = file.removesuffix(".json").removeprefix("instances_")
    for tool, own, images in _EXPORTS:
        if file == own:  # its name says nothing of the split; a folder of Roboflow's is one
            name = os.path.basename(folder) if tool == "Roboflow" else _ALONE
            return Split(name, path, _first_folder(folder, images))
    root = os.path.dirname(folder) if os.path.basename(folder) == "annotations" else folder
    return Split(name, path, _images_of_coco(root, name) or root)


def _first_folder(folder: str, name: str) -> str:
    path = os.path.join(folder, name) if name else folder
    return path if os.path.isdir(path) else folder


def _of_role(names: Sequence[str], role: str) -> list[str]:
    """The names that mean a role: COCO's own alone if it is there, else those that begin alike. A
    single split with a name of no role is for training."""
    own, rule = _ROLES[role]
    found = [own] if own in names else [name for name in names if rule.match(name)]
    is_single = len(names) == 1 and not any(other.match(names[0]) for _, other in _ROLES.values())
    return list(names) if is_single and role == TRAINING else found


def _folders_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.path for e in entries if e.is_dir() and not e.name.startswith("."))


def _entries(folder: str) -> list[str]:
    """Names in a folder, sorted, without hidden ones."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    text = ", ".join(listed[:_MOST_ENTRIES]) or "nothing"
    return text if len(listed) <= _MOST_ENTRIES else f"{text}, … ({len(listed)} entries)"
