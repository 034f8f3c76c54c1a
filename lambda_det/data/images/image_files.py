"""Reading of image files: the frame that EXIF turns, the value of white, the limit of pixels."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image

from lambda_det.config import EXIF_MODES, PILLOW_LIMIT
from lambda_det.data.images.exif import (
    INVERSE,
    TURNS,
    Size,
    orientation_in_header,
    orientation_of,
    stored_size,
    turned_size,
)
from lambda_det.errors import (
    UnreadableImageError,
    check_choice,
    key,
    raise_if_of_machine,
    reason_of,
)

# Pillow knows the endings of these formats, but decodes none of them (EPS: by another program).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}


@dataclass(frozen=True)
class ImageReading:
    """How image files are read; the values of ``INPUT.EXIF``, ``WHITE_LEVEL`` and ``MAX_PIXELS``.

    Attributes:
        exif: ``"apply"`` turns an image as its EXIF orientation says, ``"ignore"`` takes it as it
            is stored, and ``"auto"`` turns it unless only the stored frame has the expected size.
        white_level: value of white in 16-bit grey; 0 = 65535.
        max_pixels: an image of more pixels is refused.

    Raises:
        InputError: a value is not allowed.
    """

    exif: str = "auto"
    white_level: int = 0
    max_pixels: int = PILLOW_LIMIT

    def __post_init__(self) -> None:
        check_choice(key("INPUT.EXIF"), self.exif, EXIF_MODES)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImageReading:
        """Read the three keys of a config."""
        return cls(cfg.INPUT.EXIF, cfg.INPUT.WHITE_LEVEL, cfg.INPUT.MAX_PIXELS)

    def is_turned(self, stored: Size, orientation: int, expected: Size | None) -> bool:
        """Return whether an image is turned as its EXIF orientation says.

        Args:
            stored: size of the frame in the file.
            orientation: EXIF's number, 1 to 8.
            expected: size that the annotations say; None = not known.
        """
        if orientation not in TURNS or self.exif == "ignore":
            return False
        turned = turned_size(stored, orientation)
        return self.exif == "apply" or expected != stored or expected == turned

    def check_pixels(self, size: Size) -> None:
        """Raise ValueError if an image of this size has more than ``max_pixels`` pixels."""
        if (pixels := size[0] * size[1]) > self.max_pixels:
            raise ValueError(
                f"it has {pixels} pixels, more than {key('INPUT.MAX_PIXELS')} {self.max_pixels}; "
                "raise that key if you trust the file"
            )


DEFAULT = ImageReading()


def read_image(
    path: str,
    image_format: str = "BGR",
    *,
    called: str = "image",
    reading: ImageReading = DEFAULT,
    expected: Size | None = None,
) -> np.ndarray:
    """Read an image as detectron2's ``read_image`` does, and scale 16-bit grey to 8 bits.

    A TIFF is turned once; detectron2 turns it again after Pillow.

    Args:
        path: the file, or a URL that detectron2's ``PathManager`` can open.
        image_format: order of the channels, ``"BGR"`` or ``"RGB"``.
        called: what the error message calls the file, before the path.
        reading: the frame, the value of white and the limit of pixels.
        expected: width and height that the annotations say; None = not known.

    Returns:
        The image (H, W, 3) uint8.

    Raises:
        UnreadableImageError: the file is missing, cannot be decoded, has too many pixels, or has
            pixels of more than 16 bits.
        InputError: this machine cannot read the file now.
    """
    try:
        with PathManager.open(path, "rb") as file, opened(file) as image:
            reading.check_pixels(image.size)
            stored, orientation = stored_size(image), orientation_of(image)
            turn = reading.is_turned(stored, orientation, expected)
            image.load()
            is_turned = orientation_of(image) != orientation  # Pillow turns a TIFF by itself
            eight = eight_bits(image, reading.white_level)
            if turn != is_turned:
                eight = eight.transpose((TURNS if turn else INVERSE)[orientation])
            return detection_utils.convert_PIL_to_numpy(eight, image_format)
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
        raise_if_of_machine(error, f"{called} {path}")
        raise UnreadableImageError(f"{called} {path} cannot be read: {reason_of(error)}") from error


@contextlib.contextmanager
def opened(file: object) -> Iterator[Image.Image]:
    """Open an image without Pillow's own limit of pixels, which :class:`ImageReading` replaces."""
    with without_limit(), Image.open(file) as image:
        yield image


@contextlib.contextmanager
def without_limit() -> Iterator[None]:
    """Lift Pillow's limit of pixels, which is one for the whole process, inside of the block."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def expected_size(entry: Mapping) -> Size | None:
    """Return the ``width`` and ``height`` of an image in annotations; None if one is not known."""
    width, height = entry.get("width"), entry.get("height")
    return None if width is None or height is None else (width, height)


def eight_bits(image: Image.Image, white_level: int = 0) -> Image.Image:
    """Return ``image`` itself if its pixels have 8 bits, else an image of the upper 8 of 16 bits.

    Pillow's conversion to RGB clips at 255 instead, which makes a 16-bit image almost white.

    Args:
        image: any image of Pillow.
        white_level: the value that becomes 255, as those above it do; 0 = 65535.

    Raises:
        ValueError: the pixels are floats or have 32 bits, so that the value of white is unknown.
    """
    if not has_sixteen_bits(image.mode, image.format):
        return image
    pixels = np.asarray(image).astype(np.uint32)
    scaled = (pixels * 256 // (white_level + 1)).clip(max=255) if white_level else pixels >> 8
    return Image.fromarray(scaled.astype(np.uint8))


def has_sixteen_bits(mode: str, image_format: str | None) -> bool:
    """Return whether the pixels of an image have 16 bits and not 8.

    Raises:
        ValueError: they are floats or have 32 bits.
    """
    if mode[0] not in "IF":
        return False
    if mode == "F" or (mode == "I" and image_format != "PNG"):  # a PNG has at most 16 bits
        raise ValueError(f"its pixels are of Pillow's mode {mode}, 8 or 16 bits are needed")
    return True


@functools.cache
def image_endings() -> frozenset[str]:
    """Return the endings of the files, such as ``".jpg"``, whose format Pillow can decode here."""
    opened_by = {"MPO": "JPEG"}
    return frozenset(
        ending
        for ending, name in Image.registered_extensions().items()
        if opened_by.get(name, name) in Image.OPEN and name not in _NOT_DECODED
    )


def left_out(names: Iterable[str]) -> str:
    """Return ``"4 files left out: .heic 3, .txt 1"`` of the names of files; "" of none."""
    endings = Counter(os.path.splitext(name)[1].lower() or "without ending" for name in names)
    if not endings:
        return ""
    ordered = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{ending} {count}" for ending, count in ordered)
    total = sum(endings.values())
    return f"{total} file{'s' if total > 1 else ''} left out: {counts}"


def size_as_seen(path: str) -> tuple[int, int]:
    """Return height and width in pixels of an image, turned as its EXIF orientation says.

    Raises:
        UnreadableImageError: the file is missing, or its header cannot be read.
        InputError: this machine cannot read the file now.
    """
    try:
        with open(path, "rb") as file, opened(file) as image:
            width, height = turned_size(stored_size(image), orientation_in_header(image, file))
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError and others
        raise_if_of_machine(error, f"image {path}")
        raise UnreadableImageError(f"image {path} cannot be read: {reason_of(error)}") from error
    return height, width


def image_names(folder: str) -> list[str]:
    """Return the sorted names of the images in a folder, without hidden files. A folder that does
    not exist has none."""
    known = image_endings()
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(
        name
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in known
    )
