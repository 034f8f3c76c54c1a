"""AP of detections on parts of a validation set: kinds of images, and sizes of objects."""

from __future__ import annotations

from lambda_det.evaluation.counting import choose_backend, evaluation_of
from lambda_det.evaluation.counting import run as run_evaluation
from lambda_det.evaluation.detection_limits import counted_detections
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import TASK_NAMES, metrics_from_counts

ALL = "all"
KINDS = {"256×256": 256, "up to 347×260": 347, "360×360": 360, "larger": 10**6}
"""Kind of an image -> the most pixels of its longer side. Images of 256×256 and of 360×360 are dark
with bright nuclei, most between show stained tissue, the larger ones are of several kinds."""
SIZES = {"objects below 12 px": "APs", "of 12 to 24 px": "APm", "from 24 px": "APl"}
"""Size of an object, which is the square root of its area, -> its metric under :data:`_AREAS`."""
_AREAS = [[0, 1e10], [0, 12**2], [12**2, 24**2], [24**2, 1e10]]

Parts = dict[str, dict[str, float | None]]
"""Part -> its numbers of images and objects, ``box_ap`` and ``mask_ap`` in percent (None without an
object)."""


def kind_of(height: int, width: int) -> str:
    """The kind of an image, a key of :data:`KINDS`."""
    return next(kind for kind, side in KINDS.items() if max(height, width) <= side)


def parts_of(annotations: str, predictions: str, max_detections: int = 100) -> Parts:
    """Evaluate detections on all images, on each kind of image and on each size of object.

    Args:
        annotations: path of a COCO instances json.
        predictions: path of a json in COCO's results format.
        max_detections: number of detections in an image that count, COCO's 100 or more.

    Raises:
        InputError: a file is missing or not valid.
    """
    truth = GroundTruth.from_file(annotations)
    found = Detections(read_detections(predictions), truth, f"predictions {predictions}")
    sides = {number: (height, width) for number, height, width in truth.images.values()}
    images = {kind: [i for i, side in sides.items() if kind_of(*side) == kind] for kind in KINDS}
    images = {ALL: [*sides], **images}
    objects = [one for one in truth.coco("bbox").anns.values() if not one["iscrowd"]]
    parts: Parts = {}
    for kind, chosen in images.items():
        inside = {*chosen}
        count = sum(one["image_id"] in inside for one in objects)
        parts[kind] = {"images": len(chosen), "objects": count}
    for size, (low, high) in zip(SIZES, _AREAS[1:], strict=True):
        of_size = [one["image_id"] for one in objects if low <= one["area"] < high]
        parts[size] = {"images": len({*of_size}), "objects": len(of_size)}
    for task in (task for task in found.tasks if task in TASK_NAMES):
        column = f"{TASK_NAMES[task]}_ap"
        for kind, chosen in images.items():
            if not chosen:
                parts[kind][column] = None
                continue
            evaluation = evaluation_of(choose_backend(), truth.coco(task), found.coco(task), task)
            evaluation.params.maxDets = counted_detections(found, max_detections)
            evaluation.params.imgIds = chosen
            evaluation.params.areaRng = _AREAS
            run_evaluation(evaluation)
            counts = evaluation.eval["precision"], evaluation.eval["recall"]
            metrics = metrics_from_counts(*counts, task=task)
            parts[kind][column] = metrics["AP"]
            if kind == ALL:
                for size, name in SIZES.items():
                    parts[size][column] = metrics[name]
    return parts
