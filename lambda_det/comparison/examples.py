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
from pycocotools.coco import COCO

from lambda_det.comparison.run_files import FINISHED, FINISHED_FILE
from lambda_det.comparison.suite import Run, Suite
from lambda_det.data import configure_datasets
from lambda_det.data.image_files import read_image
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.counting import evaluation_of
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.drawn_objects import (
    class_colours,
    detections_per_image,
    draw_objects,
    object_of_annotation,
    object_of_detection,
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

    The runs are of one seed: the first for which most models have finished.

    Args:
        suite: as returned by :func:`~lambda_det.comparison.suite.read_suite`.
        states: as returned by :func:`~lambda_det.comparison.running.execute`.
        set_name: name of the set; "" in a suite without sets.

    Returns:
        At most :data:`MOST_IMAGES` examples; none if fewer than two models have finished.

    Raises:
        InputError: the validation images or the detections cannot be read.
    """
    runs = _runs_of_one_seed(states, set_name)
    if len(runs) < 2:
        return []
    first = next(iter(runs))
    annotations, images = validation_set(suite.configs[set_name, first])
    paths = {
        model: os.path.join(run.folder, "inference", DETECTIONS_FILE) for model, run in runs.items()
    }
    truth = GroundTruth.from_file(annotations)
    found = {model: found_per_image(truth, path) for model, path in paths.items()}
    chosen = choose(suite, found)
    drawing = _Drawing(annotations, images, paths)
    seed = runs[first].seed
    examples = []
    for image_id, reason in chosen.items():
        captions = {
            model: f"{suite.labels[model]}: {per_image[image_id].matched} of "
            f"{per_image[image_id].objects} found, {per_image[image_id].wrong} wrong"
            for model, per_image in found.items()
        }
        name, tiles = drawing.tiles(image_id, captions)
        examples.append(Example(name, f"{reason} (seed {seed})", tiles))
    return examples


def found_per_image(truth: GroundTruth, predictions: str) -> dict[object, Found]:
    """Count on every image the objects that a model found.

    Args:
        truth: the ground truth.
        predictions: path of a COCO results json.

    Returns:
        Image id -> counts, by mask IoU if truth and predictions have masks, else by box IoU.

    Raises:
        InputError: the predictions cannot be read.
    """
    # Detections with a lower score are matched after these, and so do not change their matches.
    entries = [entry for entry in read_detections(predictions) if not _is_unsure(entry)]
    detections = Detections(entries, truth, f"predictions {predictions}")
    task = detections.tasks[-1]
    evaluation = evaluation_of("pycocotools", truth.coco(task), detections.coco(task), task)
    parameters = evaluation.params
    parameters.iouThrs, parameters.maxDets = parameters.iouThrs[:1], [100]
    assert parameters.iouThrs[0] == IOU
    parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    matched = dict.fromkeys(range(1, len(truth.images) + 1), 0)
    wrong, objects = dict(matched), dict(matched)
    for entry in filter(None, evaluation.evalImgs):
        number = entry["image_id"]
        objects[number] += sum(not ignored for ignored in entry["gtIgnore"])
        for match, ignored in zip(entry["dtMatches"][0], entry["dtIgnore"][0], strict=True):
            matched[number] += bool(match > 0 and not ignored)
            wrong[number] += bool(not match > 0 and not ignored)
    return {
        image_id: Found(matched[number], wrong[number], objects[number])
        for image_id, (number, _, _) in truth.images.items()
    }


def _is_unsure(entry: object) -> bool:
    score = entry.get("score") if isinstance(entry, dict) else None
    return isinstance(score, float) and score < SCORE


def choose(suite: Suite, found: Mapping[str, Mapping[object, Found]]) -> dict[object, str]:
    """Choose for every model its best and its worst image against its baseline.

    Args:
        suite: the suite.
        found: model -> image id -> counts.

    Returns:
        Image id -> why it was chosen.
    """
    chosen: dict[object, str] = {}
    for model, per_image in found.items():
        baseline = suite.baselines[model]
        if model == baseline or baseline not in found:
            continue

        def gain(image_id, per_image=per_image, other=found[baseline]) -> tuple[int, int]:
            mine, theirs = per_image[image_id], other[image_id]
            return mine.matched - theirs.matched, theirs.wrong - mine.wrong

        labels = suite.labels[model], suite.labels[baseline]
        for sign, (winner, loser) in ((1, labels), (-1, labels[::-1])):
            candidates = [image_id for image_id in per_image if image_id not in chosen]
            if not candidates or len(chosen) >= MOST_IMAGES:
                continue
            best = max(candidates, key=lambda i: tuple(sign * part for part in gain(i)))
            more = sign * gain(best)[0]
            if more > 0:
                chosen[best] = f"{winner} finds {more} more than {loser}"
    return chosen


class _Drawing:
    def __init__(self, annotations: str, images: str, predictions: Mapping[str, str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(annotations)
        self._images = images
        self._colours = class_colours(self._coco)
        self._paths = predictions
        self._detections = {
            model: detections_per_image(path, self._coco) for model, path in predictions.items()
        }

    def tiles(
        self, image_id: object, captions: Mapping[str, str]
    ) -> tuple[str, list[tuple[str, bytes]]]:
        name = self._coco.imgs[image_id]["file_name"]
        image = read_image(os.path.join(self._images, name))
        truth = [
            object_of_annotation(self._coco, annotation, self._colours)
            for annotation in self._coco.imgToAnns[image_id]
        ]
        tiles = [("ground truth", _jpeg(draw_objects(image, truth)))]
        for model, caption in captions.items():
            objects = [
                object_of_detection(
                    self._coco, detection, image.shape[:2], self._colours, self._paths[model]
                )
                for detection in self._detections[model].get(image_id, [])
                if detection["score"] >= SCORE
            ]
            tiles.append((caption, _jpeg(draw_objects(image, objects))))
        return name, tiles


def _jpeg(image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _runs_of_one_seed(states: Mapping[Run, str], set_name: str) -> dict[str, Run]:
    """Model -> its finished run with the seed that most models have finished (the first of
    equals)."""
    seeds: dict[int, dict[str, Run]] = {}
    for run, state in states.items():
        if run.set != set_name or state != FINISHED or run.without:
            continue
        if os.path.isfile(
            os.path.join(run.folder, FINISHED_FILE)
        ):  # a kept JSON alone has no detections
            seeds.setdefault(run.seed, {})[run.model] = run
    return max(seeds.values(), key=len, default={})


def validation_set(cfg: CfgNode) -> Sequence[str]:
    """Paths of the annotation file and of the image folder that a config is evaluated on.

    Raises:
        InputError: the dataset of the config is not available.
    """
    cfg = cfg.clone()
    configure_datasets(cfg, for_training=False)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    return metadata.json_file, metadata.image_root
