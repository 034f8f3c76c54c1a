"""Benchmark of the back ends of the COCO evaluation on generated data of COCO's size."""

from __future__ import annotations

import time

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation.counting import choose_backend, evaluation_of, run
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import METRICS, metrics_from_counts

_HEIGHT, _WIDTH = 480, 640
_CLASSES = 80
_OBJECTS = 7  # per image, as in COCO val2017
_CORNERS = 12


def benchmark_counting(num_images: int, per_image: int, *, seed: int = 0) -> list[dict]:
    """Measure the time of every back end on the same detections, boxes and masks.

    The time includes the matching and the accumulation. It does not include the generation of the
    data, parsing, checks and pycocotools' indices.

    Args:
        num_images: number of images of 480 x 640 pixels, each with 7 objects of 80 classes.
        per_image: number of detections of each image, all with a mask.
        seed: seed of the generated data.

    Returns:
        A row for each task and one for both together: seconds of each back end, their ratio, and
        the largest difference between their twelve metrics in percentage points.

    Raises:
        InputError: faster-coco-eval is not installed, or a number is too small.
    """
    numbers = (("--images", num_images, 1), ("--detections", per_image, 1), ("--seed", seed, 0))
    for name, value, least in numbers:
        if value < least:
            raise InputError(f"{name} {value}: at least {least} is needed")
    backends = ("pycocotools", choose_backend("faster-coco-eval"))
    content, entries = generate(num_images, per_image, seed)
    truth = GroundTruth(clean_coco(content, "generated"))
    detections = Detections(entries, truth, "generated detections")
    rows = []
    for task in detections.tasks:
        seconds, metrics = [], []
        for backend in backends:
            evaluation = evaluation_of(backend, truth.coco(task), detections.coco(task), task)
            start = time.perf_counter()
            run(evaluation)
            seconds.append(time.perf_counter() - start)
            counts = evaluation.eval["precision"], evaluation.eval["recall"]
            metrics.append(metrics_from_counts(*counts))
            del evaluation
        rows.append(_row(task, num_images, len(entries), *seconds, _difference(*metrics)))
        rows[-1]["ap_percent"] = round(metrics[0]["AP"], 4)
    total = [sum(row[f"{name}_s"] for row in rows) for name in ("pycocotools", "faster_coco_eval")]
    difference = max(row["max_difference_points"] for row in rows)
    return [*rows, _row("bbox + segm", num_images, len(entries), *total, difference)]


def generate(num_images: int, per_image: int, seed: int) -> tuple[dict, list[dict]]:
    """Generate annotations and detections in COCO's formats.

    Objects are star-shaped polygons. Detections are objects that are moved and resized a little or
    a lot; a fifth of the detections have a random class.

    Returns:
        The annotations json and the list of detections.
    """
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (corners, 2)
    annotations, entries = [], []
    for image_id in range(1, num_images + 1):
        centres = rng.uniform((40, 40), (_WIDTH - 40, _HEIGHT - 40), (_OBJECTS, 2))
        radii = np.exp(rng.uniform(np.log(8), np.log(150), (_OBJECTS, 1)))
        radii = radii * rng.uniform(0.7, 1, (_OBJECTS, _CORNERS))
        classes = rng.integers(1, _CLASSES + 1, _OBJECTS)
        for code, category_id in zip(_masks(centres, radii, spokes), classes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(category_id),
                    "bbox": mask_util.toBbox(code).tolist(),
                    "area": int(mask_util.area(code)),
                    "iscrowd": int(rng.random() < 0.01),
                    "segmentation": code,
                }
            )
        chosen = rng.integers(_OBJECTS, size=per_image)
        spread = rng.choice([0.03, 0.1, 0.5], (per_image, 1))
        size = radii[chosen].mean(axis=1, keepdims=True)
        moved = centres[chosen] + spread * size * rng.normal(size=(per_image, 2))
        resized = radii[chosen] * np.exp(spread * rng.normal(size=(per_image, _CORNERS)))
        other = rng.integers(1, _CLASSES + 1, per_image)
        found = np.where(rng.random(per_image) < 0.2, other, classes[chosen])
        scores = rng.random(per_image)
        codes = _masks(moved, resized, spokes)
        for code, category_id, score in zip(codes, found, scores, strict=True):
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": int(category_id),
                    "bbox": mask_util.toBbox(code).tolist(),
                    "segmentation": code,
                    "score": float(score),
                }
            )
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": _HEIGHT, "width": _WIDTH}
        for i in range(1, num_images + 1)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, _CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, entries


def _masks(centres: np.ndarray, radii: np.ndarray, spokes: np.ndarray) -> list[dict]:
    """Compressed RLE of polygons: centres (N, 2), radii (N, corners), spokes (corners, 2)."""
    corners = centres[:, None] + radii[:, :, None] * spokes
    corners = np.clip(corners, 0, (_WIDTH, _HEIGHT)).reshape(len(centres), -1)
    return [mask_util.frPyObjects([polygon], _HEIGHT, _WIDTH)[0] for polygon in corners.tolist()]


def _row(
    task: str, num_images: int, num_detections: int, slow: float, fast: float, difference: float
) -> dict:
    return {
        "task": task,
        "images": num_images,
        "detections": num_detections,
        "pycocotools_s": round(slow, 2),
        "faster_coco_eval_s": round(fast, 2),
        "time_ratio": round(fast / slow, 4),
        "max_difference_points": difference,
    }


def _difference(first: dict, second: dict) -> float:
    pairs = [(first[name], second[name]) for name in METRICS]
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    return max(abs(a - b) for a, b in pairs if a is not None)
