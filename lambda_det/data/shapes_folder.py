"""A generated ImageFolder of ten classes, to show pretraining without ImageNet.

Each picture is a scene of :mod:`lambda_det.data.shapes_scene` with one object. A class is a shape
in one of three ranges of hue: the scene's own hue of the shape, or that turned by 60 or 120
degrees. Two of the twelve pairs are left out.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import cv2
import numpy as np

from lambda_det.data.shapes_scene import CLASS_NAMES, draw_scene
from lambda_det.errors import InputError

HUE_TURNS = (0, 60, 120)  # of OpenCV's 180
CLASSES = tuple(f"{shape}_{turn}" for shape in CLASS_NAMES for turn in HUE_TURNS)[:10]
"""Names of the class folders, such as ``ring_0``."""

SPLITS = ("train", "val")
_SIDE = (120, 136)  # pixels, least and most


def generate_shapes_folder(
    root: str | os.PathLike[str], *, num_train: int = 1600, num_val: int = 200, seed: int = 0
) -> str:
    """Write ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` into ``root``; return its absolute path.

    The folder is made in a temporary one beside it and renamed at the end. The same parameters
    give the same bytes. A folder that is there with as many pictures per class is kept.

    Args:
        root: must not exist, or be of this function.
        num_train, num_val: pictures per split, shared evenly by the ten classes.
        seed: the splits draw from independent streams of it.

    Raises:
        InputError: a number is no positive multiple of ten; ``root`` holds something else or
            cannot be written.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    numbers = dict(zip(SPLITS, (num_train, num_val), strict=True))
    for split, number in numbers.items():
        if number < 1 or number % len(CLASSES):
            raise InputError(
                f"num_{split} {number!r}: a positive multiple of {len(CLASSES)} is needed, the "
                "classes have the same number of pictures"
            )
    if os.path.exists(root):
        _check_kept(root, numbers)
        return root
    temporary = None
    try:
        os.makedirs(os.path.dirname(root), exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=os.path.basename(root) + ".", dir=os.path.dirname(root))
        os.chmod(temporary, 0o755)  # mkdtemp lets nobody else in
        streams = np.random.SeedSequence([seed, len(CLASSES)]).spawn(len(SPLITS))
        for (split, number), stream in zip(numbers.items(), streams, strict=True):
            _write_split(os.path.join(temporary, split), number // len(CLASSES), stream)
        os.replace(temporary, root)
    except OSError as error:
        raise InputError(f"dataset folder {root} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return root


def draw_picture(rng: np.random.Generator, name: str) -> np.ndarray:
    """A picture of a class: BGR (H, W, 3) uint8, 120 to 136 pixels high and wide."""
    shape, turn = name.split("_")
    while True:
        height, width = (int(side) for side in rng.integers(*_SIDE, size=2, endpoint=True))
        picture, objects = draw_scene(rng, height, width, num_objects=1)
        if objects and CLASS_NAMES[objects[0].class_index] == shape:
            break
    hsv = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(turn)) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _write_split(folder: str, per_class: int, stream: np.random.SeedSequence) -> None:
    """Write one split; picture i of a class depends on (seed, split, class, i) only."""
    for name, of_class in zip(CLASSES, stream.spawn(len(CLASSES)), strict=True):
        os.makedirs(os.path.join(folder, name))
        for index, child in enumerate(of_class.spawn(per_class)):
            picture = draw_picture(np.random.default_rng(child), name)
            encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            with open(os.path.join(folder, name, f"{index:05d}.jpg"), "wb") as file:
                file.write(encoded.tobytes())


def _check_kept(root: str, numbers: dict[str, int]) -> None:
    """Raise InputError where the folder is not one of these with as many pictures."""
    for split, number in numbers.items():
        for name in CLASSES:
            folder = os.path.join(root, split, name)
            found = len(os.listdir(folder)) if os.path.isdir(folder) else 0
            if found != number // len(CLASSES):
                raise InputError(
                    f"dataset folder {root} exists and has {found} pictures in {split}/{name}, "
                    f"expected {number // len(CLASSES)}; name a new folder or remove it"
                )
