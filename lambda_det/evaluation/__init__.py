"""Evaluation: COCO metrics of predictions, as numbers, tables and drawings."""

from lambda_det.evaluation.coco import CocoMetricsEvaluator, evaluate_files
from lambda_det.evaluation.metrics import metrics_table

__all__ = ["CocoMetricsEvaluator", "evaluate_files", "metrics_table"]
