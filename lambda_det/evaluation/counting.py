"""COCO metrics of detections, computed by pycocotools, or by faster-coco-eval if it is installed.

pycocotools is the reference. faster-coco-eval is a C++ implementation of the same evaluation; it
gives the same numbers (tests/evaluation/test_counting.py) in a fraction of the time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Collection, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lambda_det.data.reading.display_names import display_names
from lambda_det.errors import InputError, one_line
from lambda_det.evaluation.detection_limits import COCO_LIMIT, counted_detections
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import PER_CLASS, metrics_from_counts

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pycocotools", "faster-coco-eval")

_FASTER = "faster_coco_eval.core.faster_eval_api"


def choose_backend(name: str = "auto") -> str:
    """Resolve the name of a back end.

    Args:
        name: one of :data:`BACKENDS`. ``"auto"`` means faster-coco-eval if it can be imported, else
            pycocotools.

    Returns:
        ``"pycocotools"`` or ``"faster-coco-eval"``.

    Raises:
        InputError: the name is unknown, or faster-coco-eval is named and cannot be imported.
    """
    if name not in BACKENDS:
        raise InputError(f"back end {name!r}: expected one of {', '.join(BACKENDS)}")
    if name == "pycocotools":
        return name
    try:
        importlib.import_module(_FASTER)
    except Exception as error:  # built for another numpy, it raises ValueError
        missing = isinstance(error, ModuleNotFoundError) and error.name == "faster_coco_eval"
        reason = "is not installed" if missing else f"cannot be imported ({one_line(error)})"
        advice = f"{reason}: pip install --upgrade faster-coco-eval"
        if name == "faster-coco-eval":
            raise InputError(f"back end {name!r} {advice}, or choose 'pycocotools'") from error
        if not missing:
            logger.warning("faster-coco-eval %s; pycocotools is used instead", advice)
        return "pycocotools"
    return "faster-coco-eval"


def count(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    backend: str = "auto",
    image_ids: Collection | None = None,
    oks_sigmas: Sequence[float] = (),
    max_detections: int = COCO_LIMIT,
) -> dict[str, dict]:
    """Compute COCO's metrics of every task of the detections.

    Args:
        ground_truth: the annotations.
        detections: detections that were checked against this ground truth.
        backend: one of :data:`BACKENDS`.
        image_ids: ids of the images to evaluate; None takes all.
        oks_sigmas: standard deviation of each keypoint for the object keypoint similarity, relative
            to the object's scale; empty takes those of COCO's 17 keypoints. Keypoints of another
            number are not evaluated, which is a warning.
        max_detections: number of detections of a class in an image that count for the AP of boxes
            and masks, if it is above COCO's 100; -1 = all. AR1, AR10, AR100 and the AR of a size,
            which is that of 100 detections, keep their meaning.

    Returns:
        For each task a dict with the metrics of
        :func:`~lambda_det.evaluation.metrics.metric_names` in percent, None where there is no
        ground truth. Keypoints are always evaluated by pycocotools. The key ``"per_class"`` holds a
        list of ``{"id", "name", …metrics}``, one for each class, with its display name.

    Raises:
        InputError: the back end is not available, see :func:`choose_backend`.
    """
    backend = choose_backend(backend)
    logger.info(
        "%d detections on %d of %d images, evaluated by %s",
        len(detections), detections.num_images, len(ground_truth.images), backend,
    )  # fmt: skip
    names = display_names(ground_truth.categories)
    results = {}
    for task in detections.tasks:
        api = "pycocotools" if task == "keypoints" else backend
        evaluation = evaluation_of(api, ground_truth.coco(task), detections.coco(task), task)
        if task == "keypoints":
            if len(oks_sigmas):
                evaluation.params.kpt_oks_sigmas = np.array(oks_sigmas)
            sigmas = len(evaluation.params.kpt_oks_sigmas)
            if sigmas != ground_truth.num_keypoints:
                logger.warning(
                    "%d keypoints and %d OKS sigmas: keypoints are not evaluated; give one sigma "
                    "for each in TEST.KEYPOINT_OKS_SIGMAS",
                    ground_truth.num_keypoints, sigmas,
                )  # fmt: skip
                continue
        else:
            evaluation.params.maxDets = counted_detections(detections, max_detections)
        if image_ids is not None:
            evaluation.params.imgIds = [ground_truth.images[i][0] for i in image_ids]
        run(evaluation)
        counts = evaluation.eval["precision"], evaluation.eval["recall"]
        results[task] = metrics_from_counts(*counts, task=task)
        results[task][PER_CLASS] = [
            {
                "id": category_id,
                "name": names[k],
                **metrics_from_counts(*counts, slice(k, k + 1), task),
            }
            for k, (category_id, _) in enumerate(ground_truth.categories)
        ]
    return results


def evaluation_of(backend: str, truth: COCO, found: COCO, task: str) -> COCOeval:
    """Make a ``COCOeval`` of the chosen back end; :func:`run` runs it.

    Args:
        backend: ``"pycocotools"`` or ``"faster-coco-eval"``.
        truth: index of the annotations.
        found: index of the detections.
        task: ``"bbox"``, ``"segm"``, or, of pycocotools, ``"keypoints"``.
    """
    if backend == "pycocotools":
        return COCOeval(truth, found, task)
    faster = importlib.import_module(_FASTER)

    class WithoutRecoding(faster.COCOeval_faster):
        """Skips the decoding and encoding of every compressed RLE, which takes half of the time."""

        def _prepare(self) -> None:
            for index in (truth, found) if task == "segm" else ():
                for annotation in index.anns.values():
                    annotation["rle"] = annotation["segmentation"]
            self.params.compute_rle = False
            super()._prepare()
            self.params.compute_rle = task == "segm"

    return WithoutRecoding(truth, found, task, print_function=_say_nothing)


def run(evaluation: COCOeval) -> None:
    """Match and accumulate, and suppress what pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()


def _say_nothing(*_: object) -> None:
    pass
