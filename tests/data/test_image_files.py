"""Images of more than 8 bits, and images that are very thin."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.data.image_files import eight_bits, read_image


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
