"""Pictures whose pixels are not 8 bits, which Pillow's conversion to RGB would turn white."""

from __future__ import annotations

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from lambda_det.errors import InputError, reason_of


def read_image(path: str, image_format: str = "BGR", *, called: str = "image") -> np.ndarray:
    """As detectron2's ``read_image`` (H, W, 3), turned as its EXIF says; 16-bit grey scaled.

    Args:
        path: the file.
        image_format: order of the channels.
        called: what the error calls it, in front of the path.

    Raises:
        InputError: it is missing, cannot be decoded, or has pixels of more than 16 bits.
    """
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as picture:
            eight = eight_bits(picture)
        if eight is picture:
            return detection_utils.read_image(path, format=image_format)
        return detection_utils.convert_PIL_to_numpy(eight, image_format)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
        raise InputError(f"{called} {path} cannot be read: {reason_of(error)}") from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture itself if its pixels have 8 bits, else the upper 8 of its 16.

    Pillow clips at 255 instead, which leaves white of a picture that uses its 16 bits.

    Raises:
        ValueError: its pixels are floats, or have 32 bits: nothing says what is white.
    """
    mode = picture.mode
    if mode[0] not in "IF":
        return picture
    if mode == "F" or (mode == "I" and picture.format != "PNG"):  # PNG knows 16 bits at most
        raise ValueError(f"its pixels are of Pillow's mode {mode}, 8 or 16 bits are needed")
    return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
