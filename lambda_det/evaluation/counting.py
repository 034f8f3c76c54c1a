"""Detections against ground truth: pycocotools counts, or faster-coco-eval where it is installed.

pycocotools is the judge. faster-coco-eval is an independent copy of it in C++ that gives the same
numbers (tests/evaluation/test_counting.py) in a fraction of the time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Collection

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lambda_det.errors import InputError, one_line
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import PER_CLASS, metrics_from_counts

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pycocotools", "faster-coco-eval")

_FASTER = "faster_coco_eval.core.faster_eval_api"


def choose_backend(name: str = "auto") -> str:
    """``"auto"`` is faster-coco-eval where it can be imported, else pycocotools.

    Raises:
        InputError: no such back end, or it is asked for by name and cannot be imported.
    """
    if name not in BACKENDS:
        raise InputError(f"back end {name!r}: expected one of {', '.join(BACKENDS)}")
    if name == "pycocotools":
        return name
    try:
        importlib.import_module(_FASTER)
    except Exception as error:  # built for another numpy, it is a ValueError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "faster_coco_eval"
        reason = "is not installed" if missing else f"cannot be imported ({one_line(error)})"
        advice = f"{reason}: pip install --upgrade faster-coco-eval"
        if name == "faster-coco-eval":
            raise InputError(f"back end {name!r} {advice}, or take 'pycocotools'") from error
        if not missing:
            logger.warning("faster-coco-eval %s; pycocotools counts", advice)
        return "pycocotools"
    return "faster-coco-eval"


def count(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    backend: str = "auto",
    image_ids: Collection | None = None,
) -> dict[str, dict]:
    """COCO's metrics of every task of the detections.

    Args:
        ground_truth, detections: the detections checked against this ground truth.
        backend: one of :data:`BACKENDS`.
        image_ids: ids of the images to judge; None is all.

    Returns:
        Task -> :data:`~lambda_det.evaluation.metrics.METRICS` in percent, None where there is no
        ground truth; and under ``"per_class"`` a list of ``{"id", "name", …metrics}``.

    Raises:
        InputError: see :func:`choose_backend`.
    """
    backend = choose_backend(backend)
    logger.info(
        "%d detections on %d of %d images, counted by %s",
        len(detections), detections.num_images, len(ground_truth.images), backend,
    )  # fmt: skip
    results = {}
    for task in detections.tasks:
        evaluation = evaluation_of(backend, ground_truth.coco(task), detections.coco(task), task)
        if image_ids is not None:
            evaluation.params.imgIds = [ground_truth.images[i][0] for i in image_ids]
        run(evaluation)
        counts = evaluation.eval["precision"], evaluation.eval["recall"]
        results[task] = metrics_from_counts(*counts)
        results[task][PER_CLASS] = [
            {"id": category_id, "name": name, **metrics_from_counts(*counts, slice(k, k + 1))}
            for k, (category_id, name) in enumerate(ground_truth.categories)
        ]
    return results


def evaluation_of(backend: str, truth: COCO, found: COCO, task: str) -> COCOeval:
    """An evaluation of the chosen back end, not run yet."""
    if backend == "pycocotools":
        return COCOeval(truth, found, task)
    faster = importlib.import_module(_FASTER)

    class MasksAsTheyAre(faster.COCOeval_faster):
        """Without decoding every compressed RLE and encoding it again: half of its time."""

        def _prepare(self) -> None:
            for index in (truth, found) if task == "segm" else ():
                for annotation in index.anns.values():
                    annotation["rle"] = annotation["segmentation"]
            self.params.compute_rle = False
            super()._prepare()
            self.params.compute_rle = task == "segm"

    return MasksAsTheyAre(truth, found, task, print_function=_say_nothing)


def run(evaluation: COCOeval) -> None:
    """Match and accumulate, without what pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()


def _say_nothing(*_: object) -> None:
    pass
