"""Draws the images of a comparison on which a model and its baseline differ most."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from lambda_det.comparison.run_files import FINISHED, FINISHED_FILE
from lambda_det.comparison.suite import Run, Suite
from lambda_det.data import configure_datasets
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.counting import evaluation_of
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.drawn_objects import (
    coco_to_draw,
    detections_per_image,
    draw_objects,
    image_of,
    object_of,
)
from lambda_det.evaluation.ground_truth import GroundTruth

SCORE = 0.5
IOU = 0.5
MOST_IMAGES = 8
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Found:
    """Counts of a model's detections with a score of at least :data:`SCORE` on one image.

    Attributes:
        matched: objects that a detection of the right class meets at IoU :data:`IOU`.
        wrong: detections that match no object.
        objects: objects in the image; crowd regions do not count.
    """

    matched: int
    wrong: int
    objects: int


@dataclass(frozen=True)
class Example:
    """An image drawn with its ground truth and with each model's detections.

    Attributes:
        file_name: name of the image file.
        reason: why the image is shown.
        tiles: pairs of caption and JPEG; the first shows the ground truth.
    """

    file_name: str
    reason: str
    tiles: list[tuple[str, bytes]]


def examples_of(suite: Suite, states: Mapping[Run, str], set_name: str) -> list[Example]:
    """Choose and draw, for every model, the image on which it finds the most objects more than its
    baseline, and the one on which it finds the most fewer.

    The runs are of one seed: the first for which most models of the set have finished.

    Returns:
        At most :data:`MOST_IMAGES` examples; none if fewer than two models have finished.

    Raises:
        InputError: the validation images or the detections cannot be read.
    """
    runs = _runs_of_one_seed(states, set_name)
    if len(runs) < 2:
        return []
    first = next(iter(runs.values()))
    annotations, images = validation_set(suite.configs[set_name, first.model])
    paths = {
        model: os.path.join(run.folder, "inference", DETECTIONS_FILE) for model, run in runs.items()
    }
    truth = GroundTruth.from_file(annotations)
    found = {model: found_per_image(truth, path) for model, path in paths.items()}
    coco = coco_to_draw(annotations, images)
    detections = {model: detections_per_image(path, coco) for model, path in paths.items()}
    examples = []
    for image_id, reason in choose(suite, found).items():
        name = coco.imgs[image_id]["file_name"]
        image = image_of(coco, image_id)
        objects = [object_of(coco, a, detected=False) for a in coco.imgToAnns[image_id]]
        tiles = [("ground truth", _jpeg(draw_objects(image, objects)))]
        for model in paths:
            objects = [
                object_of(coco, detection, detected=True)
                for detection in detections[model].get(image_id, [])
                if detection["score"] >= SCORE
            ]
            counts = found[model][image_id]
            caption = f"{suite.labels[model]}: {counts.matched} of {counts.objects} found, "
            tiles.append((f"{caption}{counts.wrong} wrong", _jpeg(draw_objects(image, objects))))
        examples.append(Example(name, f"{reason} (seed {first.seed})", tiles))
    return examples


def found_per_image(truth: GroundTruth, predictions: str) -> dict[object, Found]:
    """Count on every image the objects that a model found: image id -> counts, by mask IoU if truth
    and predictions (the path of a COCO results json) have masks, else by box IoU.

    Raises:
        InputError: the predictions cannot be read.
    """
    # Detections with a lower score are matched after these, and so do not change their matches.
    entries = [entry for entry in read_detections(predictions) if entry["score"] >= SCORE]
    detections = Detections(entries, truth, f"predictions {predictions}")
    task = detections.tasks[-1]
    evaluation = evaluation_of("pycocotools", truth.coco(task), detections.coco(task), task)
    parameters = evaluation.params
    parameters.iouThrs, parameters.maxDets = parameters.iouThrs[:1], [100]
    assert parameters.iouThrs[0] == IOU
    parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    counts = {number: [0, 0, 0] for number, _, _ in truth.images.values()}
    for entry in filter(None, evaluation.evalImgs):
        of_image = counts[entry["image_id"]]
        for match, ignored in zip(entry["dtMatches"][0], entry["dtIgnore"][0], strict=True):
            of_image[0] += bool(match > 0 and not ignored)
            of_image[1] += bool(not match > 0 and not ignored)
        of_image[2] += sum(not ignored for ignored in entry["gtIgnore"])
    return {image_id: Found(*counts[number]) for image_id, (number, _, _) in truth.images.items()}


def choose(suite: Suite, found: Mapping[str, Mapping[object, Found]]) -> dict[object, str]:
    """Choose for every model its best and its worst image against its baseline, from model -> image
    id -> counts; return image id -> why it was chosen."""
    chosen: dict[object, str] = {}
    for model, per_image in found.items():
        baseline = suite.baselines[model]
        if model == baseline or baseline not in found:
            continue

        def gain(image_id, per_image=per_image, other=found[baseline]) -> tuple[int, int]:
            mine, theirs = per_image[image_id], other[image_id]
            return mine.matched - theirs.matched, theirs.wrong - mine.wrong

        label, other_label = suite.labels[model], suite.labels[baseline]
        for sign, winner, loser in ((1, label, other_label), (-1, other_label, label)):
            candidates = [image_id for image_id in per_image if image_id not in chosen]
            if not candidates or len(chosen) >= MOST_IMAGES:
                continue
            best = max(candidates, key=lambda i: tuple(sign * part for part in gain(i)))
            more = sign * gain(best)[0]
            if more > 0:
                chosen[best] = f"{winner} finds {more} more than {loser}"
    return chosen


def _jpeg(image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _runs_of_one_seed(states: Mapping[Run, str], set_name: str) -> dict[str, Run]:
    """Model -> its finished run with the seed that most models have finished (the first of
    equals)."""
    seeds: dict[int, dict[str, Run]] = {}
    for run, state in states.items():
        if run.set != set_name or state != FINISHED or run.without:
            continue
        if os.path.isfile(os.path.join(run.folder, FINISHED_FILE)):  # a kept JSON has no detections
            seeds.setdefault(run.seed, {})[run.model] = run
    return max(seeds.values(), key=len, default={})


def validation_set(cfg: CfgNode) -> Sequence[str]:
    """Paths of the annotation file and of the image folder that a config is evaluated on.

    Raises:
        InputError: the dataset of the config is not available.
    """
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = ""  # the number of its classes is of no interest here
    configure_datasets(cfg, for_training=False)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    return metadata.json_file, metadata.image_root
