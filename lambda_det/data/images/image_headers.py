"""Headers of image files, read by the hundred thousand and remembered for the next run.

Whether a JPEG or PNG is complete is seen by the mark at its end. An image of another format, of
which large datasets have few, is decoded, if it has at most ``PILLOW_LIMIT`` pixels; of a larger
one the header is all that is looked at.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import PIL
from PIL import Image

from lambda_det.config import PILLOW_LIMIT
from lambda_det.data.images.exif import orientation_in_header, stored_size
from lambda_det.data.images.image_files import (
    opened,
    without_limit,
)
from lambda_det.errors import raise_if_of_machine, reason_of
from lambda_det.io import cache_path, read_cache, write_cache

logger = logging.getLogger(__name__)

_TAIL = 1024  # bytes; many cameras and programs write something after the end of a JPEG
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_REMEMBERED = 500  # fewer files than this are read in less time than a cache is worth
_RULES = "2"  # a new number, when what counts as sound changes, forgets what is remembered
_PART = 64  # files that a thread takes at a time
_PERIOD_S = 5  # between two lines of progress


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        width, height: of the stored frame in pixels.
        orientation: EXIF's, 1 to 8.
        mode, image_format: Pillow's.
    """

    width: int
    height: int
    orientation: int
    mode: str
    image_format: str


_known: dict[str, tuple[int, int, Header]] = {}
"""Path -> size in bytes, time of the last change and header of each sound file that was read."""


def read_headers(paths: Sequence[str], workers: int = 0) -> dict[str, Header | str]:
    """Read the headers of image files, and look whether the files are complete.

    Threads do it and not processes: most of the time goes to waiting for the disk or the network,
    Pillow's decoders release the lock of the interpreter, and nothing is started again or copied.
    What was read of many files is remembered in the user's cache folder.

    Args:
        paths: local paths.
        workers: number of threads; 0 is taken as 1.

    Returns:
        Path -> the header, or what is wrong with the file: ``"is truncated"``.

    Raises:
        InputError: this machine cannot read a file now, for which the file is not to blame.
    """
    Image.preinit()
    Image.init()  # not by several threads at once
    cache = _cache_file(paths) if len(paths) >= _REMEMBERED else ""
    remembered = _remembered(cache) if cache else {}
    _known.update(remembered)
    found: dict[str, Header | str] = {}
    said = time.monotonic()
    unique = list(dict.fromkeys(paths))
    parts = [unique[i : i + _PART] for i in range(0, len(unique), _PART)]
    with without_limit(), ThreadPoolExecutor(max(1, workers)) as pool:
        for part in pool.map(lambda part: {path: _header(path) for path in part}, parts):
            found |= part
            if time.monotonic() - said > _PERIOD_S:
                said = time.monotonic()
                logger.info("%d of %d image files are checked", len(found), len(unique))
    if cache and any(_known.get(path) != remembered.get(path) for path in unique):
        _remember(cache, {*remembered, *unique})  # splits may share a folder
    return found


def _header(path: str) -> Header | str:
    """The header of a file, or what is wrong with the file."""
    try:
        status = os.stat(path)
        known = _known.get(path)
        if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
            return known[2]
        with open(path, "rb") as file, opened(file) as image:
            name = image.format or ""
            size = stored_size(image)
            header = Header(*size, orientation_in_header(image, file), image.mode, name)
            if not _has_end(file, name):
                if size[0] * size[1] <= PILLOW_LIMIT:
                    image.load()  # what follows the end may be long, so this decides
                elif name in _ENDS:
                    return "is truncated"
    except FileNotFoundError:
        return "does not exist"
    except PIL.UnidentifiedImageError:
        return "is no image that Pillow can open" if status.st_size else "is empty"
    except Exception as error:  # of Pillow's decoders, of many types
        raise_if_of_machine(error, f"image {path}")
        reason = getattr(error, "strerror", None) or reason_of(error)
        return "is truncated" if "truncated" in reason.lower() else f"cannot be read ({reason})"
    _known[path] = status.st_size, status.st_mtime_ns, header
    return header


def _has_end(file: Any, image_format: str) -> bool:
    """Whether the file of an image has the end mark of its format near its end; False without such
    a mark."""
    if (end := _ENDS.get(image_format)) is None:
        return False
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    file.seek(place)
    return end in tail


# ---- the memory of what was read ----


def _cache_file(paths: Iterable[str]) -> str:
    """The file for the folders of these images, as this Pillow reads them; "" if there is none."""
    folders = sorted({os.path.dirname(os.path.abspath(path)) for path in paths})
    text = "\n".join([_RULES, PIL.__version__, *folders])
    name = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_path(f"image_headers_{name}.json")


def _remembered(path: str) -> dict[str, tuple[int, int, Header]]:
    """The content of a cache file; nothing if it is missing or damaged."""
    try:
        return {
            name: (size, changed, Header(*rest))
            for name, (size, changed, *rest) in read_cache(path).items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _remember(path: str, paths: Iterable[str]) -> None:
    entries = ((n, _known[n]) for n in paths if n in _known and os.path.exists(n))
    images = {name: [size, changed, *header] for name, (size, changed, header) in entries}
    write_cache(images, path)
