"""COCO metrics of a detector: for detectron2's training loop, and of files."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Collection

from detectron2.evaluation import COCOEvaluator

from lambda_det.errors import InputError
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.diagnosis import warn_of_zero
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import (
    METRICS,
    METRICS_FILE,
    PER_CLASS,
    metrics_record,
)
from lambda_det.records import write_json

logger = logging.getLogger(__name__)

DETECTIONS_FILE = "coco_instances_results.json"


def evaluate_files(annotations: str, predictions: str, *, backend: str = "auto") -> dict[str, dict]:
    """COCO metrics of saved detections.

    Args:
        annotations: a COCO instances json.
        predictions: detections in COCO's results format.
        backend: see :func:`~lambda_det.evaluation.counting.choose_backend`.

    Returns:
        As :func:`~lambda_det.evaluation.counting.count`.

    Raises:
        InputError: a file is missing or broken, or they do not belong together.
    """
    ground_truth = GroundTruth.from_file(annotations)
    detections = Detections(
        read_detections(predictions), ground_truth, f"predictions {predictions}"
    )
    results = count(ground_truth, detections, backend=backend)
    warn_of_zero(results, ground_truth, detections, f"predictions {predictions}")
    return results


class CocoMetricsEvaluator(COCOEvaluator):
    """Box and mask AP and AR in percent, by the same code as :func:`evaluate_files`.

    After :meth:`evaluate`, ``output_dir`` holds ``coco_instances_results.json`` (the detections)
    and ``metrics.json`` (the twelve metrics per task, and per class; null where COCO defines no
    number); of a dataset without annotations, such as COCO's test-dev, the detections alone.

    Args:
        dataset_name: registered with detectron2.
        tasks: ``("bbox",)`` or ``("bbox", "segm")``.
        output_dir: folder for the two files.
    """

    def __init__(self, dataset_name: str, tasks: tuple[str, ...], output_dir: str) -> None:
        # The fast implementation needs detectron2's compiled operators.
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir, use_fast_impl=False)
        self._dataset_name = dataset_name
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
        judged = self._checked(entries) if self._do_evaluation else None
        write_json(entries, os.path.join(self._output_dir, DETECTIONS_FILE), indent=None)
        if judged is None:
            with contextlib.suppress(FileNotFoundError):  # not to be taken for this evaluation's
                os.unlink(os.path.join(self._output_dir, METRICS_FILE))
            logger.info("%s has no annotations: nothing to judge by", self._dataset_name)
            return
        ground_truth, detections = judged
        results = count(ground_truth, detections, image_ids=img_ids)
        source = f"detections on {self._dataset_name}"
        warn_of_zero(results, ground_truth, detections, source)
        results = {task: results[task] for task in sorted(self._tasks)}
        write_json(metrics_record(results), os.path.join(self._output_dir, METRICS_FILE))
        for task, values in results.items():
            self._results[task] = flat_results(values)

    def _checked(self, entries: list[dict]) -> tuple[GroundTruth, Detections]:
        if self._ground_truth is None:
            self._ground_truth = GroundTruth(self._coco_api.dataset, self._metadata.json_file)
        if "segm" in self._tasks and not self._ground_truth.has_masks:
            raise InputError(
                f"annotation file {self._ground_truth.source} has no masks, and the model predicts "
                "them: set MODEL.MASK_ON False"
            )
        source = f"detections on {self._dataset_name}"
        return self._ground_truth, Detections(entries, self._ground_truth, source)


def flat_results(values: dict) -> dict[str, float]:
    """Metrics as detectron2 keeps them: one level, NaN for "undefined", ``AP-<class>``."""
    flat = {name: values[name] for name in METRICS}
    if len(values[PER_CLASS]) > 1:
        flat.update({f"AP-{entry['name']}": entry["AP"] for entry in values[PER_CLASS]})
    return {name: math.nan if value is None else value for name, value in flat.items()}
