"""RLE: every mask is taken as it is, foreign bytes are refused or mean another whole mask."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pycocotools.mask as mask_util
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from lambda_det.data.reading.rle import compress, first_broken

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SIDES = st.integers(1, 12)
MASKS = st.tuples(SIDES, SIDES).flatmap(
    lambda sides: arrays(np.uint8, sides, elements=st.sampled_from((0, 1)))
)


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of zeros, ones, zeros, …, down the columns; pixel by pixel."""
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@SOME
@given(MASKS)
def test_all_forms_of_a_mask_are_the_same(mask) -> None:
    height, width = mask.shape
    code = mask_util.encode(np.asfortranarray(mask))
    for counts in (runs_of(mask), code["counts"], code["counts"].decode("ascii")):
        found = compress({"size": [height, width], "counts": counts}, height, width)
        assert first_broken([found]) is None
        assert (mask_util.decode(found) == mask).all()


@SOME
@given(MASKS, st.binary(min_size=1, max_size=12))
def test_foreign_bytes_are_refused_or_decode_to_what_they_say(mask, counts) -> None:
    height, width = mask.shape
    code = {"size": [height, width], "counts": counts}
    if first_broken([code]) is None:
        again = mask_util.encode(mask_util.decode(code))
        assert sum(runs_of(mask_util.decode(code))) == height * width
        assert mask_util.area(again) == mask_util.area(code)


@SOME
@given(MASKS, st.lists(st.integers(-3, 200), max_size=6))
def test_runs_are_taken_exactly_if_they_fill_the_image(mask, counts) -> None:
    height, width = mask.shape
    fits = bool(counts) and min(counts) >= 0 and sum(counts) == height * width
    try:
        found = compress({"size": [height, width], "counts": counts}, height, width)
    except ValueError:
        assert not fits
    else:
        assert fits and int(mask_util.area(found)) == sum(counts[1::2])
