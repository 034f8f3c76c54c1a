"""Conversion of COCO masks to compressed run-length encoding (RLE), and checks of such codes.

pycocotools' C code does not check its input: it decodes a truncated or corrupt RLE to some other
mask, and masks of different sizes never match. Both would give a wrong AP without any message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.data.reading.values import shown

_CHUNK = 20_000  # RLEs checked at once; this bounds the memory
REACH = 10  # largest coordinate of a polygon, in multiples of the longer side of its image
_NO_PAIRS = "has a polygon that is not pairs of finite numbers x, y"


def compress(segmentation: object, height: int, width: int) -> dict:
    """Convert a COCO segmentation to compressed RLE.

    The characters of an RLE that is compressed already are not checked here, see
    :func:`first_broken`.

    Args:
        segmentation: a list of polygons, an uncompressed RLE or a compressed RLE, as in COCO's
            annotations and results.
        height, width: size of the image in pixels.

    Returns:
        ``{"size": [height, width], "counts": bytes}``, as :mod:`pycocotools.mask` takes it.

    Raises:
        ValueError: ``segmentation`` has none of the three forms, or is for another image size. The
            text is the end of a sentence whose subject is the segmentation.
    """
    if isinstance(segmentation, list):
        long = long_polygons(segmentation, height, width)
        if any(len(polygon) % 2 for polygon in segmentation):
            raise ValueError(_NO_PAIRS)
        if not long or len(long) < len(segmentation):
            raise ValueError("has a polygon of fewer than three points")
        return mask_util.merge(mask_util.frPyObjects(long, height, width))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("is neither polygons nor RLE with size and counts")
    if segmentation["size"] not in ([height, width], (height, width)):
        raise ValueError(
            f"has size {shown(segmentation['size'])}, its image {[height, width]} (height, width)"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if (
            not all(type(run) is int and run >= 0 for run in counts)
            or sum(counts) != height * width
        ):
            raise ValueError(f"has runs that do not add up to {height} x {width} pixels")
        return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("ascii", errors="replace")
    if not isinstance(counts, bytes):
        raise ValueError("has counts that are neither text nor a list")
    return {"size": [height, width], "counts": counts}


def long_polygons(polygons: list, height: int, width: int) -> list[list]:
    """The polygons of at least three points; detectron2 drops shorter ones.

    Raises:
        ValueError: a polygon is not a list of finite numbers, or it reaches too far outside. The
            text is the end of a sentence whose subject is the segmentation.
    """
    reach = REACH * max(height, width)
    for polygon in polygons:
        # sum, min and max are fast in C; a large json has millions of numbers.
        if not isinstance(polygon, list) or not _is_finite_sum(polygon):
            raise ValueError(_NO_PAIRS)
        # pycocotools visits every pixel of an edge, also outside of the image, in 32 bits: a
        # coordinate of 1e7 takes seconds and gigabytes, one of 1e9 is a segmentation fault.
        if polygon and max(max(polygon), -min(polygon)) > reach:
            raise ValueError(f"has a polygon that reaches beyond {REACH} times its image")
    return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]


def first_broken(codes: Sequence[dict]) -> int | None:
    """Index of the first compressed RLE that does not decode to exactly one mask of its size.

    COCO writes each run length as groups of five bits; a sixth bit says that another group follows.
    From the fourth run on, the number is the difference to the run two places before. The run
    lengths of a mask add up to its number of pixels.

    Args:
        codes: compressed RLEs as :func:`compress` returns them.

    Returns:
        The index, or None if all are complete.
    """
    for start in range(0, len(codes), _CHUNK):
        part = codes[start : start + _CHUNK]
        whole = _are_whole([c["counts"] for c in part], [c["size"][0] * c["size"][1] for c in part])
        if not whole.all():
            return start + int(np.argmin(whole))
    return None


def _are_whole(texts: list[bytes], pixels: list[int]) -> np.ndarray:
    """(N,) bool: whether each of N RLE strings has run lengths that add up to its pixels."""
    lengths = np.array([len(text) for text in texts])
    values = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - ord("0")
    whole = lengths > 0
    ends = np.cumsum(lengths)
    # An empty string has no last character of its own; it is marked as broken already.
    whole[whole] &= values[ends[whole] - 1] & 32 == 0
    owner = np.repeat(np.arange(len(texts)), lengths)
    whole[owner[(values < 0) | (values > 63)]] = False
    kept = whole[owner]
    values, owner = values[kept], owner[kept]
    if not len(values):
        return whole

    is_last = values & 32 == 0
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(values)) - np.repeat(first, last - first + 1)
    owner_of_run = owner[last]
    whole[owner_of_run[last - first > 6]] = False  # 35 bits are more than any image has
    runs = np.add.reduceat((values & 31) << (5 * np.minimum(place, 6)), first)
    runs -= np.where(values[last] & 16, np.int64(1) << (5 * (np.minimum(last - first, 6) + 1)), 0)

    # From differences to run lengths: a cumulative sum over every second run, anew for each mask.
    starts = np.flatnonzero(np.diff(owner_of_run, prepend=-1))
    sizes = np.diff(starts, append=len(runs))
    index = np.arange(len(runs)) - np.repeat(starts, sizes)
    for chosen in ((index % 2 == 0) & (index > 0), index % 2 == 1):
        sums = np.cumsum(np.where(chosen, runs, 0))
        before = np.repeat(np.concatenate([[0], sums])[starts], sizes)
        runs = np.where(chosen, sums - before, runs)
    masks = owner_of_run[starts]
    whole[masks] &= np.add.reduceat(runs, starts) == np.asarray(pixels)[masks]
    whole[masks] &= np.minimum.reduceat(runs, starts) >= 0
    return whole


def _is_finite_sum(numbers: list) -> bool:
    try:
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):  # text or a list; an integer larger than any float
        return False
