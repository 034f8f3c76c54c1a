"""Annotations of the VGG Image Annotator (VIA, versions 1 and 2) as the content of a COCO json.

A project (``via_project_….json``) holds the annotations of its images, and its export
(``via_region_data.json``) is these alone. Neither says how large the images are.
"""

from __future__ import annotations

import glob
import itertools
import math
import os

from lambda_det.data.images.image_files import size_as_seen
from lambda_det.data.reading.values import is_finite, shown
from lambda_det.errors import InputError
from lambda_det.io import read_json

CLASS = "object"
"""The class of all objects if they have no attribute."""

_SHAPES = ("polygon", "rect", "circle", "ellipse", "polyline", "point")
_CORNERS = 64  # of the polygon that stands for an ellipse


def via_files(folder: str) -> dict[str, str]:
    """Find VIA's jsons in a folder with ``via_….json``, or whose sub-folders have one each.

    Returns:
        Name of the split -> path of the json; the name is "" unless it is that of a sub-folder.
        Empty if there is none.

    Raises:
        InputError: a folder has several.
    """
    if file := _file_in(folder):
        return {"": file}
    folders = sorted(glob.glob(os.path.join(glob.escape(folder), "*", "")))
    found = {os.path.basename(below[:-1]): _file_in(below[:-1]) for below in folders}
    return {name: file for name, file in found.items() if file}


def is_via(content: object) -> bool:
    """Return whether a parsed json is one of VIA's."""
    return _entries(content) is not None


def read_via(json_file: str, class_attribute: str | None = None) -> tuple[dict, str]:
    """Read a json of VIA.

    A rectangle becomes an object without a mask, a circle or an ellipse one with a polygon. Points
    and lines become masks that the intake leaves out, and so is a region without a class.

    Args:
        json_file: its path.
        class_attribute: region attribute that is the class; None = the only one that there is, and
            one class for all if there is none.

    Returns:
        The content of a COCO json, and the folder of the images.

    Raises:
        InputError: the json is not VIA's, several attributes may be the class, a region makes no
            sense, or an image is missing.
    """
    project = read_json(json_file, called="annotation file")
    entries = _entries(project)
    if entries is None:
        raise InputError(f"annotation file {json_file} is no json of VIA 1 or 2")
    regions = [(image, region) for image in entries for region in _regions(image)]
    for image, region in regions:
        if not isinstance(region, dict) or not isinstance(
            region.get("region_attributes") or {}, dict
        ):
            raise InputError(
                f"annotation file {json_file}: {image['filename']} has the region {shown(region)}; "
                "shape_attributes and region_attributes are needed"
            )
    attribute = _attribute(json_file, regions, class_attribute)
    values = [_value(region, attribute) for _, region in regions]
    names = _class_names(project, attribute, values)
    numbers = {name: index for index, name in enumerate(names, start=1)}
    root = _image_root(json_file, project, entries)
    images = []
    for index, entry in enumerate(entries, start=1):
        height, width = size_as_seen(os.path.join(root, entry["filename"]))
        images.append(
            {"id": index, "file_name": entry["filename"], "height": height, "width": width}
        )
    ids = {id(entry): index for index, entry in enumerate(entries, start=1)}
    annotations = []
    for number, ((entry, region), value) in enumerate(zip(regions, values, strict=True), start=1):
        where = f"annotation file {json_file}: region {number} ({entry['filename']})"
        annotations.append({
            "id": number,
            "image_id": ids[id(entry)],
            "category_id": numbers.get(value, value),
            "iscrowd": 0,
            **_shape(where, region.get("shape_attributes")),
        })  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, root


def _file_in(folder: str) -> str:
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "via_*.json")))
    if len(files) > 1:
        names = ", ".join(os.path.basename(file) for file in files)
        raise InputError(f"{folder} has several jsons of VIA ({names}); name one of them")
    return files[0] if files else ""


def _entries(content: object) -> list[dict] | None:
    """VIA's entries of images; None if a json is not VIA's."""
    if not isinstance(content, dict):
        return None
    entries = content.get("_via_img_metadata", content)
    if not isinstance(entries, dict) or (not entries and entries is content):
        return None
    listed = list(entries.values())
    is_via = all(
        isinstance(e, dict)
        and isinstance(e.get("filename"), str)
        and isinstance(e.get("regions", 0), (dict, list, type(None)))
        for e in listed
    )
    return listed if is_via else None


def _regions(image: dict) -> list[dict]:
    regions = image["regions"]  # VIA 1 has an object in place of the list
    return list(regions.values()) if isinstance(regions, dict) else list(regions or ())


def _attribute(json_file: str, regions: list, wanted: str | None) -> str | None:
    """Name of the attribute that is the class; None if regions have no attributes."""
    known = sorted({name for _, r in regions for name in r.get("region_attributes") or {}})
    listed = ", ".join(known) or "none"
    if wanted is not None and wanted not in known:
        raise InputError(
            f"--class-attribute {wanted}: {json_file} has the region attributes: {listed}"
        )
    if wanted is None and len(known) > 1:
        raise InputError(
            f"annotation file {json_file} has several region attributes; name that of the class "
            f"with --class-attribute: {listed}"
        )
    return wanted or (known[0] if known else None)


def _value(region: dict, attribute: str | None) -> str:
    """Name of a region's class; "" if it has none, or several by the marks of a checkbox."""
    if attribute is None:
        return CLASS
    value = (region.get("region_attributes") or {}).get(attribute, "")
    if isinstance(value, dict):
        marked = [name for name, is_marked in value.items() if is_marked]
        value = marked[0] if len(marked) == 1 else ""
    return "" if value is None else str(value).strip()


def _class_names(project: dict, attribute: str | None, values: list[str]) -> list[str]:
    """The names in VIA's list of options, and then others that regions have."""
    options = _part(project, "_via_attributes", "region", attribute, "options")
    named = dict.fromkeys(name for option in options if (name := option.strip()))
    return [*named, *sorted({*values} - {*named, ""})] or [CLASS]


def _image_root(json_file: str, project: dict, entries: list[dict]) -> str:
    """The folder that has the images: that of the json, ``images`` in it, or VIA's own path."""
    folder = os.path.dirname(os.path.abspath(json_file))
    own = _part(project, "_via_settings", "core").get("default_filepath")
    roots = [folder, os.path.join(folder, "images")]
    roots += [os.path.join(folder, own)] if isinstance(own, str) else []
    counts = [
        sum(os.path.isfile(os.path.join(root, entry["filename"])) for entry in entries)
        for root in roots
    ]
    return roots[counts.index(max(counts))]


def _part(value: object, *names: str | None) -> dict:
    """The object that is reached by names; an empty one if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _shape(where: str, shape: object) -> dict:
    """``bbox`` or ``segmentation`` of a region."""
    name = shape.get("name") if isinstance(shape, dict) else None
    if name not in _SHAPES:
        raise InputError(
            f"{where} has the shape {shown(name)}; allowed: {', '.join(map(repr, _SHAPES))}"
        )
    try:
        if name == "rect":
            return {"bbox": _numbers(shape, "x", "y", "width", "height")}
        if name in ("circle", "ellipse"):
            x, y = _numbers(shape, "cx", "cy")
            axes = _numbers(shape, *(("r", "r") if name == "circle" else ("rx", "ry")))
            return {"segmentation": [_ellipse(x, y, *axes, float(shape.get("theta") or 0))]}
        if name == "point":
            return {"segmentation": [_numbers(shape, "cx", "cy")]}
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        if name == "polyline":
            pairs = itertools.pairwise(points)
            return {"segmentation": [[*start, *end] for start, end in pairs] or [[*points[0]]]}
        return {"segmentation": [[number for point in points for number in point]]}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{where} has a shape that makes no sense: {shown(shape)}") from error


def _numbers(shape: dict, *names: str) -> list[float]:
    if not all(is_finite(shape[name]) for name in names):
        raise ValueError(names)
    return [shape[name] for name in names]


def _ellipse(x: float, y: float, rx: float, ry: float, theta: float) -> list[float]:
    """A polygon on an ellipse whose first axis is turned by ``theta`` radians, clockwise as it is
    seen (y points down)."""
    polygon = []
    for index in range(_CORNERS):
        angle = 2 * math.pi * index / _CORNERS
        along, across = rx * math.cos(angle), ry * math.sin(angle)
        polygon.append(x + along * math.cos(theta) - across * math.sin(theta))
        polygon.append(y + along * math.sin(theta) + across * math.cos(theta))
    return polygon
