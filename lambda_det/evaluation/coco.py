"""COCO metrics of saved predictions, and detectron2's evaluator with the same metrics."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Collection, Sequence

from detectron2.evaluation import COCOEvaluator

from lambda_det.data.coco_folder import images_of
from lambda_det.errors import InputError
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.diagnosis import warn_of_zero
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import (
    METRICS_FILE,
    PER_CLASS,
    metric_names,
    metrics_record,
)
from lambda_det.io import write_json

logger = logging.getLogger(__name__)

DETECTIONS_FILE = "coco_instances_results.json"


def evaluate_files(annotations: str, predictions: str, *, backend: str = "auto") -> dict[str, dict]:
    """Compute the COCO metrics of saved detections.

    Args:
        annotations: path of a COCO instances json.
        predictions: path of a json in COCO's results format, such as detectron2's
            ``coco_instances_results.json``.
        backend: ``"auto"``, ``"pycocotools"`` or ``"faster-coco-eval"``, see
            :func:`~lambda_det.evaluation.counting.choose_backend`.

    Returns:
        For each task (``"bbox"``, ``"segm"``, ``"keypoints"``), the metrics in percent, as
        :func:`~lambda_det.evaluation.counting.count` returns them.

    Raises:
        InputError: a file is missing or not valid; the predictions are not of these images and
            categories; or the back end is not available.
    """
    ground_truth = GroundTruth.from_file(annotations)
    detections = Detections(
        read_detections(predictions), ground_truth, f"predictions {predictions}"
    )
    results = count(ground_truth, detections, backend=backend)
    warn_of_zero(results, ground_truth, detections, f"predictions {predictions}")
    return results


class CocoMetricsEvaluator(COCOEvaluator):
    """detectron2's ``COCOEvaluator`` with the metrics of :func:`evaluate_files`, in percent.

    :meth:`evaluate` writes two files to ``output_dir``: ``coco_instances_results.json`` has the
    detections, and ``metrics.json`` the COCO metrics of each task and class (null where COCO does
    not define a value). For a dataset without annotations, such as COCO's test-dev, it writes
    the detections alone.

    Args:
        dataset_name: name of a dataset that is registered with detectron2.
        tasks: ``"bbox"``, and ``"segm"`` and ``"keypoints"`` if the model predicts them.
        output_dir: folder of the two files.
        oks_sigmas: as for :func:`~lambda_det.evaluation.counting.count`.

    Raises:
        InputError: on :meth:`evaluate`, if the annotations or the detections are not valid, or if
            the model predicts masks but the annotations have none.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...],
        output_dir: str,
        oks_sigmas: Sequence[float] = (),
    ) -> None:
        # detectron2's fast implementation needs its compiled operators, and is not used here.
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir, use_fast_impl=False)
        self._dataset_name = dataset_name
        self._oks_sigmas = tuple(oks_sigmas)
        self._ground_truth: GroundTruth | None = None

    def _eval_predictions(
        self, predictions: list[dict], img_ids: Collection[int] | None = None
    ) -> None:
        entries = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        contiguous = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        if contiguous is not None:
            category_ids = {index: category_id for category_id, index in contiguous.items()}
            for entry in entries:
                entry["category_id"] = category_ids[entry["category_id"]]
        checked = self._checked(entries) if self._do_evaluation else None
        write_json(entries, os.path.join(self._output_dir, DETECTIONS_FILE), indent=None)
        if checked is None:
            with contextlib.suppress(FileNotFoundError):  # the metrics of an earlier evaluation
                os.unlink(os.path.join(self._output_dir, METRICS_FILE))
            logger.info("%s has no annotations, so no metrics are computed", self._dataset_name)
            return
        ground_truth, detections = checked
        results = count(ground_truth, detections, image_ids=img_ids, oks_sigmas=self._oks_sigmas)
        source = f"detections on {self._dataset_name}"
        warn_of_zero(results, ground_truth, detections, source)
        results = {task: results[task] for task in sorted(self._tasks) if task in results}
        write_json(metrics_record(results), os.path.join(self._output_dir, METRICS_FILE))
        for task, values in results.items():
            self._results[task] = flat_results(values, task)

    def _checked(self, entries: list[dict]) -> tuple[GroundTruth, Detections]:
        if self._ground_truth is None:
            content = _own_part(self._coco_api.dataset, self._dataset_name)
            self._ground_truth = GroundTruth(content, self._metadata.json_file)
        if "segm" in self._tasks and not self._ground_truth.has_masks:
            raise InputError(
                f"annotation file {self._ground_truth.source} has no masks, and the model predicts "
                "them: set MODEL.MASK_ON False"
            )
        if "keypoints" in self._tasks and not self._ground_truth.num_keypoints:
            raise InputError(
                f"annotation file {self._ground_truth.source} has no keypoints, or different "
                "numbers of them, and the model predicts them: set MODEL.KEYPOINT_ON False"
            )
        source = f"detections on {self._dataset_name}"
        return self._ground_truth, Detections(entries, self._ground_truth, source)


def _own_part(content: dict, dataset_name: str) -> dict:
    """The images of a json that a dataset has, with their annotations."""
    listed = [image["id"] for image in content["images"]]
    own = images_of(dataset_name, listed)
    if own is listed:
        return content
    images = [image for image in content["images"] if image["id"] in own]
    annotations = [one for one in content["annotations"] if one["image_id"] in own]
    return {**content, "images": images, "annotations": annotations}


def flat_results(values: dict, task: str = "bbox") -> dict[str, float]:
    """Convert the metrics of a task to detectron2's form.

    Args:
        values: metrics of one task from :func:`~lambda_det.evaluation.counting.count`.
        task: name of the task.

    Returns:
        Metric -> percent, NaN where it is undefined; the AP of a class is called ``AP-<class>``.
    """
    flat = {name: values[name] for name in metric_names(task)}
    if len(values[PER_CLASS]) > 1:
        flat.update({f"AP-{entry['name']}": entry["AP"] for entry in values[PER_CLASS]})
    return {name: math.nan if value is None else value for name, value in flat.items()}
