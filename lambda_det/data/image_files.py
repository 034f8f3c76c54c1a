"""Reading of image files, with 16-bit grey scaled to 8 bits and clear errors."""

from __future__ import annotations

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from lambda_det.errors import InputError, reason_of


def read_image(path: str, image_format: str = "BGR", *, called: str = "image") -> np.ndarray:
    """Read an image as detectron2's ``read_image`` does, and scale 16-bit grey to 8 bits.

    Args:
        path: the file, or a URL that detectron2's ``PathManager`` can open.
        image_format: order of the channels, ``"BGR"`` or ``"RGB"``.
        called: what the error message calls the file, before the path.

    Returns:
        The image (H, W, 3) uint8, rotated as its EXIF orientation says.

    Raises:
        InputError: the file is missing, cannot be decoded, or has pixels of more than 16 bits.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            eight = eight_bits(image)
        if eight is image:
            return detection_utils.read_image(path, format=image_format)
        return detection_utils.convert_PIL_to_numpy(eight, image_format)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
        raise InputError(f"{called} {path} cannot be read: {reason_of(error)}") from error


def eight_bits(image: Image.Image) -> Image.Image:
    """Return ``image`` itself if its pixels have 8 bits, else an image of the upper 8 of 16 bits.

    Pillow's conversion to RGB clips at 255 instead, which makes a 16-bit image almost white.

    Raises:
        ValueError: the pixels are floats or have 32 bits, so that the value of white is unknown.
    """
    mode = image.mode
    if mode[0] not in "IF":
        return image
    if mode == "F" or (mode == "I" and image.format != "PNG"):  # a PNG has at most 16 bits
        raise ValueError(f"its pixels are of Pillow's mode {mode}, 8 or 16 bits are needed")
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
