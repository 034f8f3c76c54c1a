"""Names and json ids of a detector's classes, from a file, from annotations or from a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from lambda_det.data import configure_datasets
from lambda_det.data.reading.coco_json import read_coco
from lambda_det.data.reading.display_names import (
    display_names,
    registered_categories,
    registered_names,
)
from lambda_det.data.reading.intake import release
from lambda_det.errors import InputError
from lambda_det.io import read_json


@dataclass(frozen=True)
class ClassNames:
    """The classes of a detector in the order of its contiguous class ids.

    Attributes:
        names: names of the classes, all different.
        ids: their ``category_id`` in a COCO json.
        source: file or dataset that the names are from, for messages.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    source: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def categories(self) -> list[dict]:
        """The list ``categories`` of a COCO json."""
        pairs = zip(self.ids, self.names, strict=True)
        return [{"id": number, "name": name} for number, name in pairs]


def numbered(count: int) -> ClassNames:
    """The names ``class 0``, ``class 1``, ... for a detector whose class names are not known."""
    return ClassNames(tuple(f"class {i}" for i in range(count)), tuple(range(count)), "")


def classes_of_file(path: str) -> ClassNames:
    """Read class names from a file.

    Args:
        path: a text file with one name in each line, or a ``.json`` file with a list of
            names, an object ``{id: name}``, a list of COCO categories, or a whole COCO json.

    Raises:
        InputError: the file cannot be read, or it has none of these forms.
    """
    if path.lower().endswith(".json"):
        named = _names_by_id(read_json(path), path)
    else:
        try:
            with open(path, encoding="utf-8-sig") as file:
                named = dict(enumerate(line.strip() for line in file if line.strip()))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not UTF-8 text"
            raise InputError(f"--classes {path}: {reason}") from error
    for number, name in named.items():
        if type(number) is not int or not isinstance(name, str) or not name:
            raise InputError(
                f"--classes {path}: class {number!r} is named {name!r:.60}; ids are whole numbers, "
                "names are text"
            )
    if not named:
        raise InputError(f"--classes {path}: the file has no class names")
    ids = sorted(named)
    names = display_names((number, named[number]) for number in ids)
    return ClassNames(tuple(names), tuple(ids), path)


def _names_by_id(content: Any, path: str) -> dict:
    """The names in one of the forms that a json file may have, not checked themselves."""
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        content = content["categories"]
    try:
        if isinstance(content, dict):
            return {int(key): name for key, name in content.items()}
        if isinstance(content, list) and content and isinstance(content[0], dict):
            return {entry["id"]: entry["name"] for entry in content}
        if isinstance(content, list):
            return dict(enumerate(content))
        reason = ""
    except ValueError:
        reason = "; the keys of an object of names are ids, which are whole numbers"
    except (KeyError, TypeError):
        reason = "; a category has no id or no name"
    raise InputError(
        f"--classes {path}: expected a list of names, an object with names by id, or categories "
        f"with id and name{reason}"
    )


def classes_of_annotations(path: str) -> tuple[ClassNames, list[dict]]:
    """Read the classes and the list ``images`` of a COCO json; the image files need not exist.

    Raises:
        InputError: the json cannot be read or is not in COCO's instances format.
    """
    summary, images, _ = read_coco(path)
    summary.findings.log()
    ids = tuple(number for number, _ in summary.categories)
    return ClassNames(tuple(summary.class_names), ids, path), images


def classes_of_config(cfg: CfgNode, count: int | None) -> ClassNames | None:
    """Find the class names in the datasets of a config.

    Args:
        cfg: the config; it is not changed, and its datasets need not exist.
        count: number of classes of the model, or None if it is not known. A dataset with another
            number of classes is skipped, since the model was not trained on it.

    Returns:
        The classes of the first dataset, of ``DATASETS.TEST`` and then ``DATASETS.TRAIN``, whose
        class names are known; None if there is no such dataset.
    """
    trial = cfg.clone()
    trial.defrost()
    for names in (cfg.DATASETS.TEST, cfg.DATASETS.TRAIN):
        for name in names:
            trial.DATASETS.TRAIN, trial.DATASETS.TEST = (), (name,)
            try:
                configure_datasets(trial, for_training=False)
                registered = trial.DATASETS.TEST[0]
                release()  # only the names are needed
            except InputError:
                if cfg.DATASETS.COCO_FOLDER:  # the name may mean a split of that folder
                    continue
                registered = name
            classes = _registered(registered)
            if classes is not None and count in (None, len(classes)):
                return classes
    return None


def _registered(name: str) -> ClassNames | None:
    """The classes in the metadata of a registered dataset; None if it has no class names."""
    metadata = MetadataCatalog.get(name)
    pairs = registered_categories(metadata)
    if not pairs:
        return None
    ids = (index if number is None else number for index, (number, _) in enumerate(pairs))
    return ClassNames(tuple(registered_names(metadata)), tuple(ids), name)
