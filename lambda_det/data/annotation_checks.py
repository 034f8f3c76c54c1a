"""Checks of the values of one image and of one annotation of a COCO json.

Neither pycocotools' C code nor detectron2's ``load_coco_json`` checks its input. Values that pass
these checks crash neither of them, and they do not make the training loss NaN.
"""

from __future__ import annotations

from lambda_det.data.rle import compress, long_polygons
from lambda_det.data.values import is_finite, shown
from lambda_det.errors import InputError

MAX_SIDE = 2**16  # pycocotools counts the pixels of a mask in 32 bits


def check_image(where: str, image: dict) -> None:
    """Check that an image has a size in whole pixels and a valid file name.

    Args:
        where: beginning of the error message, which names the image.
        image: an entry of ``images`` with the keys ``file_name``, ``height`` and ``width``.

    Raises:
        InputError: the size or the name is not valid.
    """
    height, width = image["height"], image["width"]
    if not all(type(side) is int and 0 < side < MAX_SIDE for side in (height, width)):
        raise InputError(
            f"{where} has height {shown(height)} and width {shown(width)}; whole numbers of "
            f"pixels from 1 to {MAX_SIDE - 1} are needed"
        )
    name = image["file_name"]
    if not name or "\0" in name:
        raise InputError(f"{where} has file_name {shown(name)}; the name of a file is needed")


def check_box(where: str, box: object) -> None:
    """Check that a box is a list x, y, width, height of finite numbers, the sides not negative.

    Raises:
        InputError: it is not; the message begins with ``where``.
    """
    if not (
        isinstance(box, list) and len(box) == 4 and all(map(is_finite, box)) and min(box[2:]) >= 0
    ):
        raise InputError(
            f"{where} has bbox {shown(box)}; four finite numbers x, y, width, height are needed, "
            "width and height not negative"
        )


def check_annotation(file: str, annotation: dict, image: dict) -> tuple[bool, dict | None]:
    """Check one annotation: its box, area, flags, keypoints and segmentation.

    Args:
        file: beginning of the error messages, which names the json.
        annotation: an entry of ``annotations`` with the keys ``id``, ``image_id``, ``category_id``
            and ``bbox``.
        image: the entry of ``images`` that the annotation belongs to.

    Returns:
        Whether a model can learn from the annotation (it is not a crowd region, and at least one
        of its polygons, if it has any, has three points), and its mask as a compressed RLE, or
        None if it is not stored as RLE. The characters of the RLE are not checked yet, see
        :func:`~lambda_det.data.rle.first_broken`.

    Raises:
        InputError: a value is not valid.
    """
    where = f"{file}: annotation id {annotation['id']}"
    check_box(where, annotation["bbox"])
    area = annotation.get("area", 0)
    if isinstance(area, (int, float)) and not (is_finite(area) and area >= 0):
        raise InputError(
            f"{where} has area {shown(area)}; a finite number, not negative, is needed"
        )
    if annotation.get("ignore", 0) != 0:
        raise InputError(f'{where} has "ignore", which detectron2 does not support')
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise InputError(f"{where} has 'iscrowd' {shown(annotation['iscrowd'])}; 0 or 1 is allowed")
    keypoints = annotation.get("keypoints") or []
    if not isinstance(keypoints, list) or not all(map(is_finite, keypoints)):
        raise InputError(f"{where} has keypoints {shown(keypoints)}; finite numbers are needed")

    segmentation = annotation.get("segmentation")
    code, is_drawable = None, True
    try:
        if isinstance(segmentation, list):
            polygons = long_polygons(segmentation, image["height"], image["width"])
            is_drawable = not segmentation or bool(polygons)
        elif segmentation:
            code = compress(segmentation, image["height"], image["width"])
    except ValueError as error:
        text = f"{file}: the segmentation of annotation id {annotation['id']} {error}"
        raise InputError(text) from error
    return is_drawable and not annotation.get("iscrowd"), code
