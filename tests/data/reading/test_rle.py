"""Compressed RLE: whole codes are taken, cut and foreign ones are found."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest

from lambda_det.data.reading import rle
from lambda_det.data.reading.rle import first_broken


def random_codes(count: int, seed: int) -> list[dict]:
    """Masks of odd sizes, from empty over noise to full."""
    rng = np.random.default_rng(seed)
    codes = []
    for index in range(count):
        height, width = rng.integers(1, 90, 2)
        density = (0, 1, rng.random(), rng.random() ** 4)[index % 4]
        mask = (rng.random((height, width)) < density).astype(np.uint8)
        if index % 3 == 0:  # long runs
            mask = np.kron(mask, np.ones((7, 31), np.uint8))
        codes.append(mask_util.encode(np.asfortranarray(mask)))
    return codes


def test_a_mask_of_many_pixels():
    huge = mask_util.frPyObjects({"size": [46_000, 46_000], "counts": [46_000**2]}, 46_000, 46_000)
    assert first_broken([huge]) is None


@pytest.mark.parametrize("chunk", [20_000, 9])
def test_each_broken_code_is_found(monkeypatch, chunk):
    monkeypatch.setattr(rle, "_CHUNK", chunk)
    rng = np.random.default_rng(1)
    for trial in range(60):
        codes = random_codes(25, trial + 2)
        assert first_broken(codes) is None
        place = int(rng.integers(25))
        size, counts = codes[place]["size"], codes[place]["counts"]
        broken = (
            counts[: int(rng.integers(len(counts)))],  # cut
            counts + b"1",  # a pixel more
            counts[:-1] + b"\xff",
            counts[:-1] + b" ",
            b"P" + counts[1:] if len(counts) == 1 else counts[:-1] + b"o",  # "more follows"
            b"",
        )[trial % 6]
        codes[place] = {"size": size, "counts": broken}
        assert first_broken(codes) == place
    for codes in ([{"size": [3, 4], "counts": b"<"}, {"size": [3, 4], "counts": b""}],
                  [{"size": [3, 4], "counts": b""}, {"size": [3, 4], "counts": b"<"}]):  # fmt: skip
        assert first_broken(codes) == [c["counts"] for c in codes].index(b"")


def test_negative_run():
    # 20 - 8 = 12 pixels as they should be, but no mask has -8 of them.
    code = mask_util.frPyObjects({"size": [3, 4], "counts": [0, 12]}, 3, 4)
    assert first_broken([code]) is None
    assert first_broken([{"size": [3, 4], "counts": b"d0H"}]) == 0
