"""Checks of image files before the first iteration, by their headers and ends.

A file that is missing, truncated or of another size than its json says would otherwise end a
training when its turn comes, which may be after hours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.utils import comm

from lambda_det.data.images.exif import Size, turned_size
from lambda_det.data.images.image_files import (
    ImageReading,
    expected_size,
    has_sixteen_bits,
    opened,
)
from lambda_det.data.images.image_headers import Header, read_headers
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

_SAMPLES = 16  # 16-bit images whose pixels are read
_FULL_BITS = 15  # from here on, 16-bit pixels are bright enough as they are

_said: set[str] = set()


def usable_images(
    images: Sequence[dict],
    source: str,
    reading: ImageReading,
    *,
    skip: bool = False,
    workers: int = 0,
    consequence: str = "",
) -> list[dict]:
    """Check the image files of a dataset, and return the images whose files can be used.

    Every process calls this function; process 0 reads the files. Images without ``file_name``, and
    those of a URL, are not checked. A message that was logged before is not logged again.

    Args:
        images: in detectron2's dataset format.
        source: what messages call the dataset.
        reading: how the images are going to be read.
        skip: whether to leave out images that cannot be used.
        workers: number of threads that read the files; 0 is taken as 1.
        consequence: what the warning says of images that are left out.

    Raises:
        InputError: a file is missing, truncated, cannot be opened, has another size than the
            annotations say or more pixels than allowed, and ``skip`` is False; or none is left.
    """
    local = {i: p for i, image in enumerate(images) if (p := _local_path(image)) is not None}
    faults: dict[int, str] = {}
    error: Exception | None = None
    if comm.is_main_process():
        try:
            faults = _faults(images, local, source, reading, workers)
        except Exception as raised:  # the others wait for this process
            error = raised
    if comm.get_world_size() > 1:
        faults, line = comm.all_gather((faults, None if error is None else str(error)))[0]
        if error is None and line is not None:
            error = InputError(line)
    if error is not None:
        if isinstance(error, InputError):
            error.of_all_processes = True
        raise error
    if not faults:
        return list(images)
    first = min(faults)
    name = key("DATALOADER.SKIP_UNREADABLE")
    count = f"{source}: {len(faults)} of the {len(images)} image files"
    example = f"the first, {local[first]}, {faults[first]}"
    if not skip or len(faults) == len(images):
        hint = "" if skip else f" ({name} True leaves them out)"
        error = InputError(f"{count} cannot be used; {example}{hint}")
        error.of_all_processes = True
        raise error
    _say_once(f"{count} are left out ({name} True){consequence}; {example}")
    return [image for index, image in enumerate(images) if index not in faults]


def _faults(
    images: Sequence[dict],
    local: Mapping[int, str],
    source: str,
    reading: ImageReading,
    workers: int,
) -> dict[int, str]:
    """Read the files ``local`` (index of an image -> path); return index -> what is wrong."""
    headers = read_headers(list(local.values()), workers)
    found = {index: headers[path] for index, path in local.items()}
    faults = {
        index: fault
        for index, header in found.items()
        if (fault := _fault(header, expected_size(images[index]), reading))
    }
    sound = {i: h for i, h in found.items() if isinstance(h, Header) and i not in faults}
    warn_of_frames([(images[i], header) for i, header in sound.items()], source, reading)
    if not reading.white_level:
        _warn_of_white([(local[i], header) for i, header in sound.items()], source)
    return faults


def _fault(header: Header | str, expected: Size | None, reading: ImageReading) -> str:
    """What is wrong with a file for a use of it; "" = nothing."""
    if isinstance(header, str):
        return header
    stored = header.width, header.height
    try:
        reading.check_pixels(stored)
        has_sixteen_bits(header.mode, header.image_format)
    except ValueError as error:
        return f"cannot be read ({error})"
    if expected is None:
        return ""
    turned = reading.is_turned(stored, header.orientation, expected)
    width, height = turned_size(stored, header.orientation) if turned else stored
    if (width, height) == expected:
        return ""
    how = ""
    if header.orientation != 1:
        how = f" {'turned as its EXIF says' if turned else 'as it is stored'}"
    return (
        f"is {width} x {height} pixels (width x height){how}, but its json says {expected[0]} x "
        f"{expected[1]}"
    )


def warn_of_frames(
    images: Sequence[tuple[dict, Header]], source: str, reading: ImageReading
) -> None:
    """Warn which frame is taken of the images whose size does not tell it.

    Args:
        images: pairs of an image in detectron2's dataset format and its file's header.
        source: what the message calls the dataset.
        reading: how the images are going to be read.
    """
    if reading.exif != "auto":
        return
    unclear, as_stored, first = 0, 0, ""
    for image, header in images:
        if header.orientation == 1:
            continue
        stored, expected = (header.width, header.height), expected_size(image)
        if turned_size(stored, header.orientation) == stored and expected in (None, stored):
            unclear, first = unclear + 1, first or image["file_name"]
        elif expected == stored:
            as_stored += 1
    name = key("INPUT.EXIF")
    if as_stored:
        _say_once(
            f"{source}: {as_stored} of the {len(images)} images are taken as they are stored, "
            f"because their json has the size before the quarter turn of their EXIF orientation",
            logging.INFO,
        )
    if unclear:
        others = f" ({as_stored} others have boxes of the stored frame)" if as_stored else ""
        _say_once(
            f"{source}: {unclear} of the {len(images)} images have an EXIF orientation that turns "
            f"them by 180 degrees or mirrors them, and sizes do not tell which frame the "
            f"annotations are of; the turned frame is taken{others}; if the objects are at wrong "
            f"places, set {name} 'ignore', which takes the stored frame, and if not, 'apply'; the "
            f"first is {first}"
        )


def _warn_of_white(files: Sequence[tuple[str, Header]], source: str) -> None:
    """Say if 16-bit images, a few of which are read, use fewer bits."""
    deep = [path for path, header in files if has_sixteen_bits(header.mode, header.image_format)]
    largest, looked = 0, deep[:: max(1, len(deep) // _SAMPLES)][:_SAMPLES]
    for path in looked:
        try:
            with open(path, "rb") as file, opened(file) as image:
                largest = max(largest, int(np.asarray(image).max()))
        except Exception:  # it is named when it is read
            continue
        if largest.bit_length() >= _FULL_BITS:
            return
    if not largest:
        return
    limit = 1 << largest.bit_length()
    _say_once(
        f"{source}: {len(looked)} of the {len(deep)} 16-bit images were looked at and all stay "
        f"below {limit}, so they are read as almost black; if their sensor has "
        f"{largest.bit_length()} bits, set {key('INPUT.WHITE_LEVEL')} {limit - 1}; 65535 says that "
        "they are meant to be dark"
    )


def _say_once(text: str, level: int = logging.WARNING) -> None:
    """Log a message, once in a process: a test set is checked at each of its evaluations."""
    if text not in _said:
        _said.add(text)
        logger.log(level, "%s", text)


def _local_path(image: Mapping) -> str | None:
    path = image.get("file_name")
    return path if isinstance(path, str) and "://" not in path else None
