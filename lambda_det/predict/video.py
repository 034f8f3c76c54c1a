"""Predicts on the frames of a video, which are read and written one after the other."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator

import cv2
import numpy as np
from tqdm import tqdm

from lambda_det.errors import InputError, writing
from lambda_det.io import write_json
from lambda_det.predict.class_names import ClassNames
from lambda_det.predict.predictor import Predictor, coco_results, draw_instances

logger = logging.getLogger(__name__)

VIDEO_ENDING = {".avi": ".avi", ".mkv": ".mkv", ".mov": ".mov"}
"""Ending of the input video -> ending of the video that is written; others become ``.mp4``."""

_CODEC = {".avi": "MJPG"}  # else MPEG-4, which every OpenCV build with FFmpeg supports
_USUAL_RATE = 25.0  # frames per second, if the file does not say


def predict_video(
    predictor: Predictor,
    path: str,
    output_json: str,
    output_video: str | None,
    classes: ClassNames,
    *,
    score_threshold: float = 0.5,
    batch_size: int = 8,
) -> int:
    """Predict on every frame of a video, and write the detections and a drawn video.

    The json has the keys ``video`` (the path), ``width``, ``height``, ``frames_per_second``,
    ``categories`` and ``frames``, a list with ``frame`` (from 0), ``time_s`` (in seconds) and
    ``instances`` (COCO results without ``image_id``). The drawn video has the size and the frame
    rate of the input, and no sound.

    Args:
        predictor: the detector.
        path: path of the video.
        output_json: path of the json, which is written after the last frame.
        output_video: path of the drawn video, which appears when it is complete; None writes none.
        classes: the classes of the detector.
        score_threshold: lowest score that is drawn and written.
        batch_size: number of frames in a batch.

    Returns:
        The number of objects found in all frames.

    Raises:
        InputError: the video cannot be read, or an output cannot be written.
    """
    for name in (path, output_video or ""):
        try:
            name.encode()
        except UnicodeEncodeError as error:  # OpenCV would abort the process
            raise InputError(
                f"video {name}: OpenCV accepts only names that are valid UTF-8"
            ) from error
    with _quiet():
        capture = cv2.VideoCapture(path)
        try:
            frames = _frames(capture)
            first = next(frames, None)
            if first is None:
                raise InputError(f"video {path} cannot be read: OpenCV finds no frame in it")
            rate = capture.get(cv2.CAP_PROP_FPS)
            if not (math.isfinite(rate) and rate > 0):
                logger.warning(
                    "video %s does not say its frame rate: %g per second is assumed",
                    path,
                    _USUAL_RATE,
                )
                rate = _USUAL_RATE
            announced = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            height, width = first.shape[:2]
            images = (
                (frame, predictor.from_bgr(frame)) for frame in itertools.chain([first], frames)
            )
            rows: list[dict] = []
            with (
                _written(output_video, rate, (width, height)) as write,
                tqdm(total=announced or None, unit="frame", disable=None) as bar,
            ):
                # All frames have the same size, so that stream() keeps their order.
                for frame, found in predictor.stream(images, batch_size, score_threshold):
                    rows.append(_row(len(rows), rate, coco_results(found, 0, classes)))
                    if write is not None:
                        write(draw_instances(frame, found, classes, same_size=True))
                    bar.update()
        finally:
            capture.release()
    if len(rows) < announced:
        logger.warning(
            "video %s: only %d of its %d frames could be read", path, len(rows), announced
        )
    content = {
        "video": path,
        "width": width,
        "height": height,
        "frames_per_second": rate,
        "categories": classes.categories,
        "frames": rows,
    }
    with writing(output_json):
        write_json(content, output_json, indent=None)
    return sum(len(row["instances"]) for row in rows)


def _row(number: int, rate: float, entries: list[dict]) -> dict:
    for entry in entries:
        del entry["image_id"]
    return {"frame": number, "time_s": round(number / rate, 6), "instances": entries}


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Read the frames of a video, all resized to the size of the first one."""
    size = None
    while capture.isOpened():
        found, frame = capture.read()
        if not found:
            return
        size = size or frame.shape[1::-1]
        yield frame if frame.shape[1::-1] == size else cv2.resize(frame, size)


@contextlib.contextmanager
def _written(path: str | None, rate: float, size: tuple[int, int]):
    """Yield a function that writes a frame (None without a path). The file appears when it is
    complete."""
    if path is None:
        yield None
        return
    stem, ending = os.path.splitext(path)
    codec = _CODEC.get(ending, "mp4v")
    temporary = f"{stem}.tmp{ending}"
    even = tuple(side - side % 2 or side for side in size)
    if even != size:
        logger.warning(
            "%s: video codecs need even sides, so %d x %d pixels are cropped to %d x %d", path,
            *size, *even,
        )  # fmt: skip
    with writing(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "wb"):  # raises OSError; OpenCV would not say why it cannot write
            pass
    writer = cv2.VideoWriter(temporary, cv2.VideoWriter_fourcc(*codec), rate, even)
    try:
        if not writer.isOpened():
            raise InputError(
                f"{path}: this OpenCV cannot write {codec} video of {even[0]} x {even[1]} pixels; "
                "--no-pictures writes only the json"
            )
        yield lambda frame: writer.write(np.ascontiguousarray(frame[: even[1], : even[0]]))
        writer.release()
        os.replace(temporary, path)
    finally:
        writer.release()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def _quiet():
    """Silence the messages of FFmpeg and OpenCV about a file; this module logs its own.

    FFmpeg reads its log level at the first capture of a process and keeps it.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
