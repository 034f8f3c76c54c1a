"""Predicts on image and video files, and writes drawn copies and COCO results."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lambda_det.checkpoint.loading import numbers_of_heads
from lambda_det.data.config_datasets import configure_heads
from lambda_det.data.image_files import read_image
from lambda_det.errors import InputError, writing
from lambda_det.io import write_bytes, write_json
from lambda_det.predict.class_names import (
    ClassNames,
    classes_of_annotations,
    classes_of_config,
    classes_of_file,
    numbered,
)
from lambda_det.predict.inputs import InputFile, ListedImages, OutputNames, find_inputs
from lambda_det.predict.predictor import Predictor, coco_results, draw_instances, need_weights
from lambda_det.predict.video import VIDEO_ENDING, predict_video

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.json"
IMAGES_FILE = "images.json"


@dataclass
class Predicted:
    """What a call of :func:`predict_files` did.

    Attributes:
        images: the entries of ``images.json``: id, file_name, width, height and, if drawn, picture.
        videos: names of the json files, one for each video.
        num_objects: number of detections at or above the threshold, in images and frames.
        failed: path of a file -> the reason why nothing was predicted on it.
    """

    images: list[dict] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    num_objects: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """An image to predict on."""

    file: InputFile
    image_id: int
    drawn: str | None  # name of the drawn copy
    size: tuple[int, int] | None  # (width, height) in the annotations


def predict_files(
    cfg: CfgNode,
    named: Sequence[str],
    output: str,
    *,
    score_threshold: float = 0.5,
    batch_size: int = 8,
    draw: bool = True,
    recursive: bool = False,
    classes: str | None = None,
    annotations: str | None = None,
) -> Predicted:
    """Predict on files, and write drawn images, videos and json files into a folder.

    ``predictions.json`` contains the detections in images, in COCO's results format, and
    ``images.json`` the ids of the images and the categories; each video has a json file of its own
    with its frames. A file that cannot be read is logged in one line and skipped.

    Args:
        cfg: a checked config that is not frozen; its number of classes is set to that of the
            weights.
        named: files, folders and globs, see :func:`~lambda_det.predict.inputs.find_inputs`.
        output: folder to write into; it is created if it does not exist.
        score_threshold: lowest score that is drawn and written, from 0 to 1.
        batch_size: number of images in a batch, at least 1.
        draw: whether to write drawn images and videos.
        recursive: whether to search the sub-folders of folders as well.
        classes: path of a file with class names, see
            :func:`~lambda_det.predict.class_names.classes_of_file`.
        annotations: path of a COCO json that gives the classes and the ids of the images.

    Returns:
        What was predicted, and which files failed.

    Raises:
        InputError: an argument or a config value is wrong, the weights cannot be used, or the
            folder cannot be written.
    """
    if not 0 <= score_threshold <= 1:
        raise InputError(f"--score-threshold {score_threshold}: 0 to 1 is allowed")
    if batch_size < 1:
        raise InputError(f"--batch {batch_size}: at least 1 is needed")
    if classes and annotations:
        raise InputError("--classes and --annotations both name the classes; give one of them")
    need_weights(cfg)
    files = find_inputs(named, recursive=recursive)
    names, listed = _classes(cfg, classes, annotations)
    jobs, videos = _plan(files, output, draw, listed, classes, annotations)
    with writing(f"--output {output}"):
        os.makedirs(output, exist_ok=True)
    predictor = Predictor(cfg)
    done = Predicted()
    with logging_redirect_tqdm():
        if jobs:
            _predict_images(predictor, jobs, names, done, output, score_threshold, batch_size)
        for file, (json_name, *video_name) in videos:
            try:
                done.num_objects += predict_video(
                    predictor,
                    file.path,
                    os.path.join(output, json_name),
                    os.path.join(output, video_name[0]) if video_name else None,
                    names,
                    score_threshold=score_threshold,
                    batch_size=batch_size,
                )
                done.videos.append(json_name)
            except InputError as error:
                _note(done, file.path, str(error))
    return done


def _classes(
    cfg: CfgNode, classes: str | None, annotations: str | None
) -> tuple[ClassNames, list[dict] | None]:
    """Find the classes, set their number in the config, and return them with the list ``images`` of
    the annotations."""
    count = numbers_of_heads(cfg.MODEL.WEIGHTS)[0]
    listed = None
    if annotations:
        names, listed = classes_of_annotations(annotations)
    elif classes:
        names = classes_of_file(classes)
    else:
        names = classes_of_config(cfg, count)
        if names is None:
            is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
            head = cfg.MODEL.RETINANET if is_retinanet else cfg.MODEL.ROI_HEADS
            names = numbered(head.NUM_CLASSES if count is None else count)
            logger.warning(
                "the data of the config are not available, or have another number of classes than "
                "the weights: the classes are called class 0 to %d; --classes FILE names them",
                len(names) - 1,
            )
    if count is not None and count != len(names):
        raise InputError(
            f"{names.source} has {len(names)} classes, but MODEL.WEIGHTS={cfg.MODEL.WEIGHTS!r} has "
            f"{count}"
        )
    configure_heads(cfg, len(names))
    return names, listed


def _plan(
    files: Sequence[InputFile],
    output: str,
    draw: bool,
    listed: list[dict] | None,
    classes: str | None,
    annotations: str | None,
) -> tuple[list[_Job], list[tuple[InputFile, list[str]]]]:
    """Choose the ids of the images and the names of all files that will be written."""
    read = [path for path in (classes, annotations) if path]
    names = OutputNames(output, files, (PREDICTIONS_FILE, IMAGES_FILE), read)
    jobs, videos, by_id = [], [], {}
    entries = None if listed is None else ListedImages(listed, annotations)
    for file in files:
        if file.is_video:
            endings = [".json", VIDEO_ENDING.get(os.path.splitext(file.path)[1].lower(), ".mp4")]
            videos.append((file, names.of(file, *endings[: 1 + draw])))
            continue
        is_jpeg = file.path.lower().endswith((".jpg", ".jpeg"))
        drawn = names.of(file, ".jpg" if is_jpeg else ".png")[0] if draw else None
        image_id, size = len(jobs) + 1, None
        if entries is not None:
            image_id, size = entries.of(file.path)
            other = by_id.setdefault(image_id, file.path)
            if other != file.path:
                raise InputError(
                    f"--input {file.path} is image {image_id} of --annotations {annotations}, and "
                    f"so is {other}"
                )
        jobs.append(_Job(file, image_id, drawn, size))
    return jobs, videos


def _predict_images(
    predictor: Predictor,
    jobs: Sequence[_Job],
    classes: ClassNames,
    done: Predicted,
    output: str,
    threshold: float,
    batch_size: int,
) -> None:
    images: dict[int, np.ndarray] = {}  # images that wait to be drawn
    results: dict[int, list[dict]] = {}
    rows: dict[int, dict] = {}

    def readable() -> Iterator[tuple[int, np.ndarray]]:
        for index, job in enumerate(jobs):
            try:
                image = _read(job, predictor.cfg.INPUT.FORMAT)
            except InputError as error:
                _note(done, job.file.path, str(error))
                bar.update()
                continue
            height, width = image.shape[:2]
            rows[index] = {
                "id": job.image_id, "file_name": job.file.path, "width": width, "height": height,
            }  # fmt: skip
            if job.drawn is not None:
                images[index] = image
            yield index, image

    # disable=None shows no progress bar if the output is a file.
    with tqdm(total=len(jobs), unit="image", disable=None) as bar:
        for index, found in predictor.stream(readable(), batch_size, threshold):
            job = jobs[index]
            results[index] = coco_results(found, job.image_id, classes)
            if job.drawn is not None:
                drawn = draw_instances(predictor.to_bgr(images.pop(index)), found, classes)
                content = cv2.imencode(os.path.splitext(job.drawn)[1], drawn)[1].tobytes()
                path = os.path.join(output, job.drawn)
                with writing(path):
                    write_bytes(content, path)
                rows[index]["picture"] = job.drawn
            bar.update()
    done.images = [rows[index] for index in sorted(rows)]
    entries = [entry for index in sorted(results) for entry in results[index]]
    done.num_objects += len(entries)
    with writing(f"--output {output}"):
        write_json(entries, os.path.join(output, PREDICTIONS_FILE), indent=None)
        content = {"images": done.images, "categories": classes.categories}
        write_json(content, os.path.join(output, IMAGES_FILE))


def _read(job: _Job, image_format: str) -> np.ndarray:
    path = job.file.path
    image = read_image(path, image_format)
    width_height = image.shape[1::-1]
    if job.size not in (None, width_height):
        raise InputError(
            f"image {path} is {width_height[0]} x {width_height[1]} pixels (width x height), but "
            f"the annotations say {job.size[0]} x {job.size[1]}"
        )
    return image


def _note(done: Predicted, path: str, reason: str) -> None:
    done.failed[path] = reason
    logger.error("%s", reason)
