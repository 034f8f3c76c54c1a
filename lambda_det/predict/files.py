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
from lambda_det.data.images.image_checks import warn_of_frames
from lambda_det.data.images.image_files import ImageReading, expected_size, read_image
from lambda_det.data.images.image_headers import Header, read_headers
from lambda_det.data.registering.config_datasets import configure_heads
from lambda_det.errors import InputError, writing
from lambda_det.io import write_bytes, write_json
from lambda_det.predict.class_names import (
    ClassNames,
    classes_of_annotations,
    classes_of_config,
    classes_of_file,
    numbered,
)
from lambda_det.predict.inputs import InputFile, find_inputs, listed_images, output_names
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
    read = [path for path in (classes, annotations) if path]
    endings = [_endings(file, draw) for file in files]
    chosen = output_names(files, output, endings, taken=(PREDICTIONS_FILE, IMAGES_FILE), read=read)
    outputs = dict(zip(files, chosen, strict=True))
    images = [file for file in files if not file.is_video]
    if listed is None:
        entries = [{"id": number} for number in range(1, len(images) + 1)]
    else:
        paths = [file.path for file in images]
        entries = listed_images(paths, listed, str(annotations))
        _warn_of_frames(cfg, dict(zip(paths, entries, strict=True)), f"--annotations {annotations}")
    with writing(f"--output {output}"):
        os.makedirs(output, exist_ok=True)
    predictor = Predictor(cfg)
    done = Predicted()
    with logging_redirect_tqdm():
        if images:
            jobs = [
                (file.path, next(iter(outputs[file]), None), entry)
                for file, entry in zip(images, entries, strict=True)
            ]
            _predict_images(predictor, jobs, names, done, output, score_threshold, batch_size)
        for file in (file for file in files if file.is_video):
            json_name, *video_name = outputs[file]
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
                _note(done, file.path, error)
    return done


def _warn_of_frames(cfg: CfgNode, entries: dict[str, dict], source: str) -> None:
    headers = read_headers(list(entries), cfg.DATALOADER.NUM_WORKERS)
    sound = [
        ({**entries[path], "file_name": path}, header)
        for path, header in headers.items()
        if isinstance(header, Header)
    ]
    warn_of_frames(sound, source, ImageReading.from_config(cfg))


def _endings(file: InputFile, draw: bool) -> list[str]:
    """The endings of the files that are written for an input file."""
    ending = os.path.splitext(file.path)[1].lower()
    if file.is_video:
        return [".json", VIDEO_ENDING.get(ending, ".mp4")][: 1 + draw]
    return [".jpg" if ending in (".jpg", ".jpeg") else ".png"][:draw]


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


def _predict_images(
    predictor: Predictor,
    jobs: Sequence[tuple[str, str | None, dict]],
    classes: ClassNames,
    done: Predicted,
    output: str,
    threshold: float,
    batch_size: int,
) -> None:
    """Predict on images, given as path, name of the drawn copy (None draws none), and the entry of
    the annotations, of which only the id need be known."""
    rows: dict[int, dict] = {}
    results: dict[int, list[dict]] = {}
    reading = ImageReading.from_config(predictor.cfg)

    def readable() -> Iterator[tuple[tuple[int, np.ndarray], np.ndarray]]:
        for index, (path, _, entry) in enumerate(jobs):
            try:
                image = read_image(
                    path,
                    predictor.cfg.INPUT.FORMAT,
                    reading=reading,
                    expected=expected_size(entry),
                )
                height, width = image.shape[:2]
                if entry.get("width", width) != width or entry.get("height", height) != height:
                    raise InputError(
                        f"image {path} is {width} x {height} pixels (width x height), but the "
                        f"annotations say {entry['width']} x {entry['height']}"
                    )
            except InputError as error:
                _note(done, path, error)
                bar.update()
                continue
            rows[index] = {"id": entry["id"], "file_name": path, "width": width, "height": height}
            yield (index, image), image

    # disable=None shows no progress bar if the output is a file.
    with tqdm(total=len(jobs), unit="image", disable=None) as bar:
        for (index, image), found in predictor.stream(readable(), batch_size, threshold):
            results[index] = coco_results(found, rows[index]["id"], classes)
            drawn_name = jobs[index][1]
            if drawn_name is not None:
                drawn = draw_instances(predictor.to_bgr(image), found, classes)
                content = cv2.imencode(os.path.splitext(drawn_name)[1], drawn)[1].tobytes()
                path = os.path.join(output, drawn_name)
                with writing(path):
                    write_bytes(content, path)
                rows[index]["picture"] = drawn_name
            bar.update()
    done.images = [rows[index] for index in sorted(rows)]
    entries = [entry for index in sorted(results) for entry in results[index]]
    done.num_objects += len(entries)
    with writing(f"--output {output}"):
        write_json(entries, os.path.join(output, PREDICTIONS_FILE), indent=None)
        content = {"images": done.images, "categories": classes.categories}
        write_json(content, os.path.join(output, IMAGES_FILE))


def _note(done: Predicted, path: str, reason: InputError) -> None:
    done.failed[path] = str(reason)
    logger.error("%s", reason)
