"""COCO metrics of a detector: detectron2's evaluator with average recall and a written record."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

from detectron2.evaluation import COCOEvaluator
from tabulate import tabulate

from lambda_det.records import write_json

logger = logging.getLogger(__name__)

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AR_METRICS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = AP_METRICS + AR_METRICS
"""In the order of pycocotools' ``COCOeval.stats``."""

METRICS_FILE = "metrics.json"

TASK_NAMES = {"bbox": "box", "segm": "mask"}
"""COCO's name of a task -> the one that people read."""


class CocoMetricsEvaluator(COCOEvaluator):
    """Box and mask AP and AR in percent, judged by pycocotools.

    After :meth:`evaluate`, ``output_dir`` holds ``coco_instances_results.json`` (the detections)
    and ``metrics.json`` (:data:`METRICS` per task, null where COCO defines no number).

    Args:
        dataset_name: registered with detectron2.
        tasks: ``("bbox",)`` or ``("bbox", "segm")``.
        output_dir: folder for the two files.
    """

    def __init__(self, dataset_name: str, tasks: tuple[str, ...], output_dir: str) -> None:
        # The fast implementation needs detectron2's compiled operators.
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir, use_fast_impl=False)

    def evaluate(self, img_ids=None) -> dict[str, dict[str, float]]:
        results = super().evaluate(img_ids)
        if results:
            write_metrics(results, os.path.join(self._output_dir, METRICS_FILE))
        return results

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        for index, name in enumerate(METRICS):
            # COCO's own -1 means that there is no ground truth of this size.
            undefined = coco_eval is None or coco_eval.stats[index] < 0
            results[name] = math.nan if undefined else float(coco_eval.stats[index] * 100)
        return results


def write_metrics(results: Mapping[str, Mapping[str, float]], path: str) -> None:
    """Write the twelve COCO metrics of every task as JSON, at once or not at all."""
    record = {
        task: {name: _number_or_none(values[name]) for name in METRICS}
        for task, values in results.items()
        if "AP" in values  # not "box_proposals" and the like
    }
    write_json(record, path)


def metrics_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The AP of every task as a table for a terminal; ``-`` where COCO defines no number."""
    rows = [
        [TASK_NAMES.get(task, task), *(_number_or_none(values[name]) for name in AP_METRICS)]
        for task, values in results.items()
        if "AP" in values
    ]
    return tabulate(
        rows, headers=["", *AP_METRICS], tablefmt="rounded_outline", floatfmt=".1f", missingval="-"
    )


def _number_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
