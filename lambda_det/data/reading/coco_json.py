"""The clean content of a COCO json.

detectron2's ``load_coco_json`` trusts its input: a wrong file ends in a ``KeyError`` or an
assertion. Here the entries come out as pycocotools and detectron2 need them, what is mended and
left out on the way is counted (:mod:`lambda_det.data.reading.findings`), and what makes no sense
raises InputError.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from lambda_det.data.reading.annotation_rules import AnnotationRules
from lambda_det.data.reading.display_names import display_names
from lambda_det.data.reading.findings import Findings
from lambda_det.data.reading.image_rules import clean_images
from lambda_det.data.reading.rle import first_broken
from lambda_det.data.reading.values import check_entry, shown, whole
from lambda_det.errors import InputError
from lambda_det.io import read_json

_FEW = 0.1  # share of the annotations; with fewer objects, nearly all are crowd regions
_CATEGORY_KEYS = ("id", "name")


@dataclass(frozen=True)
class CocoSummary:
    """What the package needs to know about a COCO json without its images and annotations.

    Attributes:
        json_file: path of the json.
        categories: ``(id, name)`` pairs sorted by id, which is the order of the contiguous ids.
        is_labelled: whether the json has a list of annotations; COCO's test-dev has none.
        num_objects: number of annotations that a model can learn from, crowd regions not counted.
        most_objects: the largest number of such annotations in one image, and its file name.
        has_masks: whether any object, crowd regions not counted, has a mask; True if there is no
            object.
        keypoints: names of the keypoints; empty if no category has any, or if two categories have
            different ones.
        misfit: id of the first annotation that has another number of keypoints; None if there is
            no such annotation.
        findings: what was mended and left out.
    """

    json_file: str
    categories: tuple[tuple[int, str], ...]
    is_labelled: bool
    num_objects: int
    most_objects: tuple[int, str]
    has_masks: bool
    keypoints: tuple[str, ...]
    misfit: int | str | None
    findings: Findings

    @property
    def class_names(self) -> list[str]:
        """Display names of the categories in the order of the contiguous ids."""
        return display_names(self.categories)

    @property
    def metadata(self) -> dict[str, object]:
        """detectron2's metadata: names and ids of the classes, and those of the keypoints, if any.

        A horizontal flip exchanges each keypoint whose name contains ``left`` with the one that has
        ``right`` in its place.
        """
        ids = {category_id: index for index, (category_id, _) in enumerate(self.categories)}
        of_classes = {
            "thing_classes": self.class_names,
            "thing_dataset_id_to_contiguous_id": ids,  # these start at 0
        }
        if not self.keypoints:
            return of_classes
        pairs = [(name, name.replace("left", "right")) for name in self.keypoints]
        flips = [pair for pair in pairs if pair[0] != pair[1] and pair[1] in self.keypoints]
        return {
            **of_classes,
            "keypoint_names": list(self.keypoints),
            "keypoint_flip_map": flips,
        }


class CocoSet(NamedTuple):
    """The clean content of a COCO json.

    Attributes:
        summary: what it holds.
        images: COCO's entries, with ids, sizes in whole pixels and file names.
        annotations: COCO's entries, each of them with ``id``, ``image_id``, ``category_id``,
            ``bbox``, ``area`` and ``iscrowd``.
    """

    summary: CocoSummary
    images: list[dict]
    annotations: list[dict]


def read_coco(
    json_file: str, image_root: str | None = None, *, skip_missing: bool = False
) -> CocoSet:
    """Read the clean content of a json; what is mended is not logged.

    The image files are not looked for, save those of images whose size the json does not say.

    Args:
        json_file: path of the json.
        image_root: folder of the images; None = that of the dataset which the json is.
        skip_missing: whether an image is left out, with a warning, whose size the json does not say
            and whose file cannot be read.

    Raises:
        InputError: the json is missing, is not JSON or is not in COCO's instances format; there are
            no images or categories; an id occurs twice; or a value makes no sense.
    """
    content = read_json(json_file, called="annotation file")
    return clean_coco(content, json_file, image_root, skip_missing=skip_missing)


def clean_coco(
    content: dict,
    json_file: str,
    image_root: str | None = None,
    *,
    all_places: bool = False,
    skip_missing: bool = False,
) -> CocoSet:
    """Do what :func:`read_coco` does with a parsed json, which is not changed.

    Args:
        content: the json.
        json_file, image_root, skip_missing: as for :func:`read_coco`.
        all_places: whether the findings remember where every entry stands.

    Raises:
        InputError: as :func:`read_coco`.
    """
    file = f"annotation file {json_file}"
    _check_lists(file, content)
    findings = Findings(file, all_places=all_places)
    try:
        categories = _categories(file, content["categories"], findings)
        images = clean_images(
            content["images"], json_file, image_root, findings, skip_missing=skip_missing
        )
        keypoints = _keypoints_of(content["categories"])
        entries = content.get("annotations")
        annotations = _annotations(file, entries or [], categories, images, findings)
    except (TypeError, AttributeError) as error:  # such as a list in place of an id
        raise InputError(
            f"{file} is not in COCO format: a value of a wrong type ({error})"
        ) from error
    objects = [a for a in annotations if not a["iscrowd"]]
    unmasked = [a for a in objects if not a.get("segmentation")]
    if 0 < len(unmasked) < len(objects):
        _add_kept(findings, "no_mask", unmasked)
    if len(objects) < _FEW * len(annotations):
        _add_kept(findings, "all_crowds", [a for a in annotations if a["iscrowd"]])
    crowded, most = next(iter(Counter(a["image_id"] for a in objects).most_common(1)), (None, 0))
    allowed = (0, 3 * len(keypoints))
    summary = CocoSummary(
        json_file=json_file,
        categories=tuple(sorted(categories.items())),
        is_labelled=entries is not None,
        num_objects=len(objects),
        most_objects=(most, images[crowded]["file_name"] if most else ""),
        has_masks=len(unmasked) < len(objects) or not objects,
        keypoints=keypoints,
        misfit=next(
            (a["id"] for a in annotations if len(a.get("keypoints") or ()) not in allowed), None
        ),
        findings=findings,
    )
    return CocoSet(summary, list(images.values()), annotations)


def _add_kept(findings: Findings, kind: str, annotations: list[dict]) -> None:
    for annotation in annotations:
        place = ("annotations", None, annotation["image_id"])
        findings.add(kind, f"annotation id {shown(annotation['id'])}", place=place)


def _check_lists(file: str, content: object) -> None:
    """Check that a json has a list of images and of categories; that of annotations may be missing
    or null."""
    file = f"{file} is not in COCO format"
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: its top level is a {type(content).__name__}, not an object with images, "
            "annotations and categories"
        )
    for section in ("images", "annotations", "categories"):
        found = content.get(section)
        if not isinstance(found, list) and (section != "annotations" or found is not None):
            raise InputError(
                f"{file}: it has no list {section!r} (images, annotations and categories are "
                "needed)"
            )


def _keypoints_of(categories: list[dict]) -> tuple[str, ...]:
    lists = [c["keypoints"] for c in categories if c.get("keypoints")]
    if not lists or any(names != lists[0] for names in lists):
        return ()
    is_text = isinstance(lists[0], list) and all(isinstance(name, str) for name in lists[0])
    return tuple(lists[0]) if is_text and len(set(lists[0])) == len(lists[0]) else ()


def _categories(file: str, entries: list, findings: Findings) -> dict[int, str]:
    if not entries:
        raise InputError(f"{file}: categories is empty; list every class")
    known: dict[int, dict] = {}
    for index, entry in enumerate(entries):
        category = check_entry(file, "categories", index, entry, _CATEGORY_KEYS)
        given, name = category["id"], category["name"]
        category_id = whole(given)
        if category_id is None:
            raise InputError(f"{file}: category id {shown(given)} is not an integer")
        if not isinstance(name, str):
            raise InputError(
                f"{file}: category id {category_id} has name {shown(name)}; text is needed"
            )
        if type(given) is not int:
            findings.add("number", f"category id {shown(given)}", place=("categories", index))
            category = {**category, "id": category_id}
            findings.change("categories", index, entry, category)
        if (before := known.get(category_id)) is not None:
            if before["name"] != name:
                raise InputError(
                    f"{file}: category id {category_id} occurs twice ({before['name']!r} and "
                    f"{name!r})"
                )
            if before != category:
                raise InputError(
                    f"{file}: category id {category_id} occurs twice with different fields"
                )
            findings.add("repeated", f"category id {category_id}", place=("categories", index))
        known[category_id] = category
    return {category_id: category["name"] for category_id, category in known.items()}


def _annotations(
    file: str,
    entries: list,
    categories: dict[int, str],
    images: dict[int | str, dict],
    findings: Findings,
) -> list[dict]:
    rules = AnnotationRules(file, images, categories, findings)
    annotations = []
    for index, entry in enumerate(entries):
        annotation = rules.apply(index, entry)
        findings.change("annotations", index, entry, annotation)
        if annotation is not None:
            annotations.append(annotation)
    rules.number()
    if (broken := first_broken([code for _, code in rules.codes])) is not None:
        raise InputError(
            f"{file}: {rules.codes[broken][0]} has a segmentation that is not a complete RLE of "
            "its image"
        )
    return annotations
