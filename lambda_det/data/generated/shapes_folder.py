"""Generation of an ImageFolder of ten classes, to show pretraining without ImageNet.

Each image is a scene of :mod:`lambda_det.data.generated.shapes_scene` with one object. A class is a
pair of a shape and a range of hues: the hues that the shape has in the scene, or these hues shifted
by 60 or 120 of OpenCV's 180 hue steps. Two of the twelve pairs are left out.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from lambda_det.data.generated.shapes_scene import CLASS_NAMES, draw_scene
from lambda_det.errors import InputError, writing
from lambda_det.io import new_folder

HUE_SHIFTS = (0, 60, 120)  # in OpenCV's hue steps, 180 of which are the whole circle
CLASSES = tuple(f"{shape}_{shift}" for shape in CLASS_NAMES for shift in HUE_SHIFTS)[:10]
"""Names of the class folders, such as ``ring_0``."""

SPLITS = ("train", "val")
_SIDE = (120, 136)  # smallest and largest side in pixels


def generate_shapes_folder(
    root: str | os.PathLike[str], *, num_train: int = 1600, num_val: int = 200, seed: int = 0
) -> str:
    """Write ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` into ``root``; return its absolute path.

    The dataset is written to a temporary folder beside ``root``, which is renamed at the end. The
    same parameters give the same bytes. If ``root`` exists and has the right number of images in
    each class, it is kept as it is.

    Args:
        root: the folder. It must not exist, or hold such a dataset.
        num_train, num_val: number of images of each split; each class has a tenth of them.
        seed: random seed; each split has an independent stream of it.

    Raises:
        InputError: a number is not a positive multiple of ten; ``root`` holds something else, or
            cannot be written.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    numbers = dict(zip(SPLITS, (num_train, num_val), strict=True))
    for split, number in numbers.items():
        if number < 1 or number % len(CLASSES):
            raise InputError(
                f"num_{split} {number!r}: a positive multiple of {len(CLASSES)} is needed, since "
                "all classes have the same number of images"
            )
    if os.path.exists(root):
        _check_kept(root, numbers)
        return root
    streams = np.random.SeedSequence([seed, len(CLASSES)]).spawn(len(SPLITS))
    with writing(f"dataset folder {root}"), new_folder(root) as folder:
        for (split, number), stream in zip(numbers.items(), streams, strict=True):
            _write_split(os.path.join(folder, split), number // len(CLASSES), stream)
    return root


def draw_class_image(rng: np.random.Generator, name: str) -> np.ndarray:
    """Draw an image of the class ``name``: BGR (H, W, 3) uint8, 120 to 136 pixels a side."""
    shape, shift = name.split("_")
    while True:
        height, width = (int(side) for side in rng.integers(*_SIDE, size=2, endpoint=True))
        image, objects = draw_scene(rng, height, width, num_objects=1)
        if objects and CLASS_NAMES[objects[0].class_index] == shape:
            break
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(shift)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _write_split(folder: str, per_class: int, stream: np.random.SeedSequence) -> None:
    """Write one split; image i of a class depends on (seed, split, class, i) only."""
    for name, of_class in zip(CLASSES, stream.spawn(len(CLASSES)), strict=True):
        os.makedirs(os.path.join(folder, name))
        for index, child in enumerate(of_class.spawn(per_class)):
            image = draw_class_image(np.random.default_rng(child), name)
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            with open(os.path.join(folder, name, f"{index:05d}.jpg"), "wb") as file:
                file.write(encoded.tobytes())


def _check_kept(root: str, numbers: dict[str, int]) -> None:
    """Raise InputError unless ``root`` has the right number of images in each class."""
    for split, number in numbers.items():
        for name in CLASSES:
            folder = os.path.join(root, split, name)
            found = len(os.listdir(folder)) if os.path.isdir(folder) else 0
            if found != number // len(CLASSES):
                raise InputError(
                    f"dataset folder {root} exists and has {found} images in {split}/{name}, "
                    f"expected {number // len(CLASSES)}; name a new folder or remove it"
                )
