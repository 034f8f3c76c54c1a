"""Images beside masks that are images, as the content of a COCO json.

The layouts, of one class ``object``:

- ``images/a.jpg`` beside ``masks/a.png``, whose pixels are numbers of objects, 0 = background;
- ``images/a.jpg`` beside ``masks/a/``, a folder with a mask for each object;
- ``a/images/a.png`` beside ``a/masks/``, likewise, as in the Data Science Bowl of 2018.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from lambda_det.data.checking.via import CLASS
from lambda_det.data.images.image_files import image_names, size_as_seen
from lambda_det.errors import InputError, reason_of

logger = logging.getLogger(__name__)

_IMAGES, _MASKS = "images", "masks"
_MOST_VALUES = 2**16 - 1  # of a mask of 16 bits, without the background
_LOSSY = (".jpg", ".jpeg", ".jfif", ".jpe")


def mask_folders(path: str) -> dict[str, str]:
    """Find folders that :func:`read_mask_images` reads.

    Returns:
        Name of the split -> its folder; the name is "" for ``path`` itself, and that of a
        sub-folder otherwise. Empty if there is none.
    """
    if _is_split(path):
        return {"": path}
    folders = {name: os.path.join(path, name) for name in _folders(path)}
    return {name: folder for name, folder in folders.items() if _is_split(folder)}


def read_mask_images(folder: str) -> tuple[dict, str]:
    """Read a folder of images and masks.

    Images without a mask are left out, and one warning says how many; an empty mask is an image
    without objects.

    Returns:
        The content of a COCO json, and the folder of the images.

    Raises:
        InputError: no image has a mask, a mask cannot be read, has another size than its image or
            is stored as JPEG, or has more values than there can be objects.
    """
    is_bowl = not _has_both(folder)
    root = folder if is_bowl else os.path.join(folder, _IMAGES)
    found = _masks_of_bowl(folder) if is_bowl else _masks_by_stem(folder)
    images, annotations, largest = [], [], 0
    for name, (mask, parts) in found.items():
        if not mask and not parts:
            continue
        path = os.path.join(root, name)
        height, width = size_as_seen(path)
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        # One mask after the other: all of an image may not fit into memory together.
        objects = _objects_in(mask, path) if mask else (_mask_in(p, path) > 0 for p in parts)
        before = len(annotations)
        for inside in objects:
            code = mask_util.encode(np.asfortranarray(inside, dtype=np.uint8))
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": 1,
                "iscrowd": 0,
                "bbox": mask_util.toBbox(code).tolist(),
                "area": float(mask_util.area(code)),
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
            })  # fmt: skip
        largest = max(largest, len(annotations) - before)
    if not images:
        raise InputError(f"{folder}: no image has a mask of the same name ({len(found)} images)")
    if len(images) < len(found):
        first = next(name for name, masks in found.items() if not any(masks))
        logger.warning(
            "%s: %d of %d images have no mask; left out (first: %s)",
            folder, len(found) - len(images), len(found), first,
        )  # fmt: skip
    if largest == 1 and len(images) > 1:
        logger.warning(
            "%s: no image has more than one object; in a mask, each object needs a number of its "
            "own",
            folder,
        )
    categories = [{"id": 1, "name": CLASS}]
    return {"images": images, "annotations": annotations, "categories": categories}, root


def _folders(path: str) -> list[str]:
    try:
        return sorted(e.name for e in os.scandir(path) if e.is_dir() and e.name[0] != ".")
    except OSError:
        return []


def _is_split(folder: str) -> bool:
    return _has_both(folder) or bool(_folders_of_images(folder))


def _has_both(folder: str) -> bool:
    return all(os.path.isdir(os.path.join(folder, name)) for name in (_IMAGES, _MASKS))


def _folders_of_images(folder: str) -> list[str]:
    """Names of the sub-folders if each stands for one image, with its masks."""
    names = [name for name in _folders(folder) if _has_both(os.path.join(folder, name))]
    alone = all(len(image_names(os.path.join(folder, name, _IMAGES))) == 1 for name in names)
    return names if alone else []


def _masks_of_bowl(folder: str) -> dict[str, tuple[str, list[str]]]:
    """Name of an image -> its mask, or the masks of its objects."""
    found = {}
    for name in _folders_of_images(folder):
        (image,) = image_names(os.path.join(folder, name, _IMAGES))
        masks = os.path.join(folder, name, _MASKS)
        parts = [os.path.join(masks, file) for file in image_names(masks)]
        found[os.path.join(name, _IMAGES, image)] = ("", parts)
    return found


def _masks_by_stem(folder: str) -> dict[str, tuple[str, list[str]]]:
    """Name of an image -> its mask, or the masks of its objects."""
    masks = os.path.join(folder, _MASKS)
    files = {os.path.splitext(name)[0]: name for name in image_names(masks)}
    found = {}
    for image in image_names(os.path.join(folder, _IMAGES)):
        stem = os.path.splitext(image)[0]
        mask = os.path.join(masks, files[stem]) if stem in files else ""
        parts = [os.path.join(masks, stem, name) for name in image_names(os.path.join(masks, stem))]
        found[image] = (mask, [] if mask else parts)
    return found


def _objects_in(path: str, image: str) -> Iterator[np.ndarray]:
    """(H, W) bool masks of the objects whose numbers the pixels are, one after the other."""
    numbers = _mask_in(path, image)
    values = [number for number in np.unique(numbers) if number]
    if len(values) > _MOST_VALUES:
        raise InputError(
            f"mask {path} has {len(values)} different values or colours besides 0; one for each "
            f"object is needed, and {_MOST_VALUES} are allowed"
        )
    for number in values:
        yield numbers == number


def _mask_in(path: str, image: str) -> np.ndarray:
    """(H, W) the numbers of a mask; colours are taken as one number."""
    if path.lower().endswith(_LOSSY):
        raise InputError(
            f"mask {path} is a JPEG, which changes the values of pixels; PNG or TIFF is needed"
        )
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others
        raise InputError(f"mask {path} cannot be read: {reason_of(error)}") from error
    if pixels.ndim == 3:  # without the transparency
        colours = pixels[..., : 3 if pixels.shape[2] > 2 else 1].astype(np.int64)
        pixels = sum(colours[..., i] << (8 * i) for i in range(colours.shape[2]))
    if pixels.shape != (size := size_as_seen(image)):
        raise InputError(
            f"mask {path} has {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), its "
            f"image {size[1]} x {size[0]}"
        )
    return pixels
