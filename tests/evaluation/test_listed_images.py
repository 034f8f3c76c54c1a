"""A path belongs to the image of a json whose ``file_name`` is the end of the path."""

from __future__ import annotations

import pytest

from lambda_det.errors import InputError
from lambda_det.evaluation.listed_images import ListedImages

LISTED = [
    {"id": 4, "file_name": "a.png", "width": 2, "height": 3},
    {"id": 9, "file_name": "x/a.png", "width": 5, "height": 7},
    {"id": 2, "file_name": "y/b.png", "width": 1, "height": 1},
]


def test_a_whole_path():
    images = ListedImages([LISTED[0] | {"file_name": "/data/x/a.png"}], "A.json")
    assert images.of("/data/x/../x/a.png")[0] == 4
    with pytest.raises(InputError, match="is not among"):
        images.of("/data/a.png")


def test_the_longest_name_that_fits():
    images = ListedImages(LISTED, "A.json")
    assert images.of("data/a.png") == (4, (2, 3))
    assert images.of("data/x/a.png") == images.of("x/../x/a.png") == (9, (5, 7))
    assert images.of("data/xx/a.png")[0] == 4
    assert images.of("y/b.png")[0] == 2
    for path in ("b.png", "z/b.png", "yy/b.png", "c.png"):
        with pytest.raises(InputError, match=r"is not among the 3 images of --annotations A\.json"):
            images.of(path)
