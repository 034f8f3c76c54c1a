"""What happens to one annotation of a COCO json: it is taken, mended, left out or refused.

Neither pycocotools' C code nor detectron2's ``load_coco_json`` checks its input. An annotation that
these rules return crashes neither of them, and it does not make the training loss NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import pycocotools.mask as mask_util

from lambda_det.data.reading.findings import Findings
from lambda_det.data.reading.rle import REACH, compress, long_polygons
from lambda_det.data.reading.values import check_box, is_finite, is_in, shown, whole
from lambda_det.errors import InputError

_LINE = 1e-6  # square pixels; with less between them, points lie on one line
_ROUNDING = 1e-3  # pixels below 0 that a side may have by rounding
_NEEDED = ("image_id", "category_id")


class AnnotationRules:
    """The rules for the annotations of one json, to be called with one after the other.

    Args:
        file: beginning of the error messages, which names the json.
        images: image id -> its entry of ``images``.
        categories: category id -> name.
        findings: is told of what is mended and left out.

    Attributes:
        codes: name of an annotation in messages, and compressed RLE, of the masks that were not
            polygons. Their characters are not checked yet, see
            :func:`~lambda_det.data.reading.rle.first_broken`.
    """

    def __init__(
        self,
        file: str,
        images: Mapping[int | str, dict],
        categories: Mapping[int, str],
        findings: Findings,
    ) -> None:
        self.codes: list[tuple[str, dict]] = []
        self._file, self._images, self._categories = file, images, categories
        self._findings = findings
        self._known: set[int | str] = set()
        self._unnumbered: list[dict] = []
        self._at: tuple[int, dict, dict | None] = 0, {}, None
        self._image_id: int | str | None = None

    def apply(self, index: int, entry: object) -> dict | None:
        """Return an annotation that can be learned and judged, or None where there is none.

        The entry itself is returned if there is nothing to mend; it is never changed.

        Args:
            index: its place in the list ``annotations``.
            entry: an entry of that list.

        Raises:
            InputError: it makes no sense.
        """
        if not isinstance(entry, dict) or any(name not in entry for name in _NEEDED):
            missing = [n for n in _NEEDED if not isinstance(entry, dict) or n not in entry]
            raise InputError(
                f"{self._file}: annotations[{index}] has no {', '.join(missing)} (each of "
                "annotations needs image_id, category_id, and bbox or segmentation)"
            )
        self._at, self._image_id = (index, entry, None), None
        changes: dict[str, object] = {}
        if not (
            self._refers("image_id", self._images, "no_image", changes)
            and self._refers("category_id", self._categories, "no_class", changes)
        ):
            return None
        self._at = index, entry, self._images[changes.get("image_id", entry["image_id"])]
        if not self._mask(changes) or not self._box(changes):
            return None
        self._flags(changes)
        if not _is_id(entry.get("id")) or entry["id"] in self._known:
            self._found("annotation_id")
            changes["id"] = None
        annotation = {**entry, **changes} if changes else entry
        if annotation["id"] is None:
            self._unnumbered.append(annotation)
        else:
            self._known.add(annotation["id"])
        return annotation

    def number(self) -> None:
        """Give the annotations without an id of their own one that no other has."""
        following = max((i for i in self._known if isinstance(i, int)), default=0) + 1
        for number, annotation in enumerate(self._unnumbered, start=following):
            annotation["id"] = number

    def _name(self) -> str:
        """The annotation, as a message names it."""
        index, entry, image = self._at
        name = f"annotation id {shown(entry['id'])}" if "id" in entry else f"annotations[{index}]"
        return f"{name} of {image['file_name']}" if image else name

    def _found(self, kind: str, more: str = "") -> None:
        place = ("annotations", self._at[0], self._image_id)
        self._findings.add(kind, self._name() + more, place=place)

    def _wrong(self, text: str) -> InputError:
        return InputError(f"{self._file}: {self._name()} {text}")

    def _refers(self, field: str, known: Mapping, kind: str, changes: dict[str, object]) -> bool:
        """Whether an id is a known one; one in another form (``"7"``, ``7.0``) is mended."""
        value = self._at[1][field]
        if type(value) is not float and is_in(value, known):
            if field == "image_id":
                self._image_id = value
            return True
        number = whole(value)
        forms = () if number is None else (number, str(number))
        if (form := next((form for form in forms if form in known), None)) is not None:
            changes[field] = form
            if field == "image_id":
                self._image_id = form
            self._found("number", f", {field} {shown(value)}")
            return True
        if not _is_id(value) and not is_finite(value):
            raise self._wrong(f"has {field} {shown(value)}; a whole number or a text is needed")
        self._found(kind, f", {field} {shown(value)}")
        return False

    def _mask(self, changes: dict[str, object]) -> bool:
        """Mend the segmentation; return False if the object cannot be used with it."""
        _, entry, image = self._at
        segmentation = entry.get("segmentation")
        height, width = image["height"], image["width"]
        if isinstance(segmentation, list) and segmentation and not any(segmentation):
            segmentation = changes["segmentation"] = []  # of [[]]
        try:
            if isinstance(segmentation, list) and segmentation:
                polygons = self._polygons(segmentation)
                kept = [p for p in long_polygons(polygons, height, width) if not _is_line(p)]
                if not kept:
                    self._found("point_mask")
                    return False
                if len(kept) < len(polygons):
                    self._found("short_polygon")
                if kept != segmentation:
                    changes["segmentation"] = kept
            elif segmentation:
                code = compress(segmentation, height, width)
                self.codes.append((self._name(), code))
                if not mask_util.area(code):
                    self._found("point_mask")
                    return False
                if not isinstance(segmentation["counts"], str):
                    changes["segmentation"] = {**code, "counts": code["counts"].decode("ascii")}
        except ValueError as error:
            raise self._wrong(f"has a segmentation that {error}") from error
        return True

    def _polygons(self, segmentation: list) -> list:
        """The polygons of a list of polygons, of one flat list, or of a list of points."""
        if not isinstance(segmentation[0], list):
            polygons = [segmentation]
        elif len(segmentation) >= 3 and _are_points(segmentation):
            polygons = [[*chain.from_iterable(segmentation)]]
        elif all(map(_are_points, segmentation)):
            polygons = [[*chain.from_iterable(polygon)] for polygon in segmentation]
        else:
            polygons = segmentation
        if polygons is not segmentation:
            self._found("polygon_form")
        if any(isinstance(p, list) and len(p) > 6 and len(p) % 2 for p in polygons):
            self._found("odd_polygon")
            polygons = [p[: len(p) - len(p) % 2] if isinstance(p, list) else p for p in polygons]
        return polygons

    def _box(self, changes: dict[str, object]) -> bool:
        """Mend the box; return False if the object has no extent."""
        entry = self._at[1]
        box = entry.get("bbox")
        if box:  # neither missing, nor null, nor []
            if isinstance(box, list) and len(box) == 4 and all(map(is_finite, box)):
                sides = [0 if -_ROUNDING <= side < 0 else side for side in box[2:]]
                if sides != box[2:]:
                    self._found("box_side")
                    box = changes["bbox"] = [*box[:2], *sides]
            check_box(f"{self._file}: {self._name()}", box)
            _, _, image = self._at
            height, width = image["height"], image["width"]
            if max(max(box), -min(box)) > REACH * max(height, width):
                raise self._wrong(
                    f"has bbox {shown(box)}, which reaches beyond {REACH} times its image"
                )
            if box[2] > 0 and box[3] > 0:
                x, y, w, h = box
                if x >= width or y >= height or x + w <= 0 or y + h <= 0:
                    self._found("outside")
                    return False
                return True
        segmentation = changes.get("segmentation", entry.get("segmentation"))
        measured = _box_of(segmentation) if segmentation else [0, 0, 0, 0]
        if min(measured[2:]) <= 0:
            self._found("no_extent")
            return False
        self._found("box_from_mask")
        changes["bbox"] = measured
        return True

    def _flags(self, changes: dict[str, object]) -> None:
        """Check ``ignore`` and ``keypoints``, and mend ``iscrowd`` and ``area``."""
        entry = self._at[1]
        if entry.get("ignore", 0) not in (0, None):
            raise self._wrong('has "ignore", which detectron2 does not support')
        keypoints = entry.get("keypoints") or []
        if not isinstance(keypoints, list) or not all(map(is_finite, keypoints)):
            raise self._wrong(f"has keypoints {shown(keypoints)}; finite numbers are needed")
        crowd = entry.get("iscrowd")
        if type(crowd) is not int:
            number = int(crowd or 0) if crowd is None or crowd in (True, False) else whole(crowd)
            if number is None:
                raise self._wrong(f"has 'iscrowd' {shown(crowd)}; 0 or 1 is allowed")
            changes["iscrowd"] = crowd = number
            self._found("iscrowd")
        if crowd not in (0, 1):
            raise self._wrong(f"has 'iscrowd' {shown(entry['iscrowd'])}; 0 or 1 is allowed")
        area = entry.get("area")
        if not is_finite(area) or area < 0:
            self._found("area")
            changes["area"] = _area_of({**entry, **changes})


def _are_points(values: object) -> bool:
    """Whether a list has pairs of numbers, x and y, and nothing else."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(p, list) and len(p) == 2 and all(map(is_finite, p)) for p in values)
    )


def _is_line(polygon: list[float]) -> bool:
    """Whether all points of a polygon lie on one line. Most polygons show at their third point that
    they do not."""
    x0, y0 = polygon[:2]
    across = down = 0.0  # from the first point to the farthest so far
    for index in range(2, len(polygon), 2):
        dx, dy = polygon[index] - x0, polygon[index + 1] - y0
        if abs(across * dy - down * dx) > _LINE:
            return False
        if dx * dx + dy * dy > across * across + down * down:
            across, down = dx, dy
    return True


def _is_id(value: object) -> bool:
    return type(value) in (int, str)


def _box_of(segmentation: list | dict) -> list[float]:
    """x, y, width, height of a mask in pixels."""
    if isinstance(segmentation, dict):
        return mask_util.toBbox(compress(segmentation, *segmentation["size"])).tolist()
    xs = [x for polygon in segmentation for x in polygon[::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _area_of(annotation: dict) -> float:
    """Area of an object in pixels: that of its mask (of polygons by the shoelace formula, as COCO
    has it), or else of its box."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return annotation["bbox"][2] * annotation["bbox"][3]
    if isinstance(segmentation, dict):
        return float(mask_util.area(compress(segmentation, *segmentation["size"])))
    return sum(map(_shoelace, segmentation))


def _shoelace(polygon: list[float]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    pairs = zip(xs, ys, following, strict=True)
    return abs(sum(x * y1 - x1 * y for x, y, (x1, y1) in pairs)) / 2
