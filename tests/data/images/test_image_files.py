"""Frames that EXIF turns, images of more than 8 bits, limits, endings, very thin images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from PIL import Image

from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.data.images.image_files import (
    ImageReading,
    eight_bits,
    image_endings,
    left_out,
    read_image,
)
from lambda_det.errors import InputError


def test_sixteen_bits_keep_their_upper_eight(tmp_path) -> None:
    pixels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(8, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_image(str(tmp_path / "a.png"), "BGR")
    assert found.shape == (8, 32, 3) and found.dtype == np.uint8
    assert (found == (pixels >> 8)[..., None]).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "CMYK", "LA"])
def test_eight_bits_are_left_alone(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    assert eight_bits(image) is image


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "jpg"), ("CMYK", "jpg"), ("L", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"),
     ("1", "png"), ("LA", "png"), ("P", "gif"), ("RGB", "tif"), ("RGB", "webp"), ("RGB", "bmp")],
)  # fmt: skip
def test_other_images_are_read_as_detectron2_does(mode, ending, image_format, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    path = str(tmp_path / f"a.{ending}")
    exif = {"exif": Image.Exif()} if ending == "jpg" else {}
    if exif:
        exif["exif"][274] = 6
    Image.fromarray(pixels).convert(mode).save(path, **exif)
    expected = detection_utils.read_image(path, image_format)
    found = read_image(path, image_format)
    assert found.dtype == expected.dtype and (found == expected).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_more_than_sixteen_bits_are_refused(kind, tmp_path) -> None:
    Image.fromarray(np.ones((2, 3), kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="8 or 16 bits are needed"):
        read_image(str(tmp_path / "a.tif"), "RGB")


@pytest.mark.parametrize(
    ("sides", "expected"),
    [((1, 5000), (1, 128)), ((5000, 1), (128, 1)), ((1, 1), (64, 64)), ((30, 40), (64, 85))],
)
def test_a_pixel_is_kept(sides, expected) -> None:
    (resize,) = keep_one_pixel([T.ResizeShortestEdge([64, 64], 128)])
    image = np.zeros((*sides, 3), np.uint8)
    assert resize.get_transform(image).apply_image(image).shape[:2] == expected


STORED = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def write_turned(path: Path, orientation: int, pixels: np.ndarray = STORED) -> str:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return str(path)


# EXIF's definition: in which corner of the image the first row and column of the file are.
UPRIGHT = {
    2: STORED[:, ::-1], 3: STORED[::-1, ::-1], 4: STORED[::-1],
    5: STORED.T, 6: STORED[::-1].T, 7: STORED[::-1, ::-1].T, 8: STORED[:, ::-1].T,
}  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_once_or_not_at_all(orientation: int, ending: str, tmp_path) -> None:
    """Pillow turns a TIFF by itself."""
    path = write_turned(tmp_path / f"a.{ending}", orientation)
    upright = UPRIGHT[orientation]

    def found(mode: str, expected: tuple[int, int] | None = None) -> np.ndarray:
        return read_image(path, "L", reading=ImageReading(mode), expected=expected)[..., 0]

    for expected in (None, STORED.shape[::-1], upright.shape[::-1]):
        assert (found("apply", expected) == upright).all()
        assert (found("ignore", expected) == STORED).all()
    assert (found("auto") == upright).all()
    assert (found("auto", upright.shape[::-1]) == upright).all()
    by_size = STORED if orientation >= 5 else upright
    assert (found("auto", STORED.shape[::-1]) == by_size).all()
    assert found("auto", (9, 9)).shape == upright.shape  # the caller says what is wrong


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_turned_too(ending: str, tmp_path) -> None:
    path = write_turned(tmp_path / f"a.{ending}", 6, STORED.astype(np.uint16) << 8)
    assert (read_image(path, "L")[..., 0] == UPRIGHT[6]).all()


def test_an_unknown_orientation_is_none(tmp_path) -> None:
    assert (read_image(write_turned(tmp_path / "a.png", 9), "L")[..., 0] == STORED).all()


def test_another_frame_than_these_is_refused() -> None:
    with pytest.raises(InputError, match=r"INPUT\.EXIF='upright': expected one of 'auto', 'apply'"):
        ImageReading("upright")


def test_the_value_of_white() -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = Image.fromarray(pixels)
    for white in (0, 65535):
        assert (np.asarray(eight_bits(image, white)) == pixels >> 8).all()
    found = np.asarray(eight_bits(image, 4095)).reshape(-1)
    assert (found[:4096] == np.arange(4096) >> 4).all() and (found[4096:] == 255).all()
    found = np.asarray(eight_bits(image, 10000)).reshape(-1)
    assert found[10000] == found[-1] == 255 and found[5000] == 127 and (np.diff(found) >= 0).all()


def test_the_limit_of_pixels_is_the_callers(tmp_path) -> None:
    Image.new("1", (15000, 12000)).save(tmp_path / "mosaic.png")
    path, before = str(tmp_path / "mosaic.png"), Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"mosaic\.png cannot be read: it has 180000000 pixels"):
        read_image(path, "L")
    assert read_image(path, "L", reading=ImageReading(max_pixels=180_000_000)).shape[0] == 12000
    assert before == Image.MAX_IMAGE_PIXELS


def test_endings_are_those_that_pillow_decodes() -> None:
    common = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".dib", ".gif", ".tif", ".webp"}
    assert common | {".jp2", ".pgm", ".mpo"} <= image_endings()
    assert not {".pdf", ".h5", ".mpg", ".mpeg", ".eps", ".txt", ".heic"} & image_endings()


def test_what_is_left_out_is_counted_by_ending() -> None:
    names = ["a.heic", "b.HEIC", "c.txt", "README", "d.heic"]
    assert left_out(names) == "5 files left out: .heic 3, .txt 1, without ending 1"
    assert left_out(["a.txt"]) == "1 file left out: .txt 1" and left_out([]) == ""
