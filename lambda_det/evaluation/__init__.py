"""Predictions to numbers and pictures."""

from lambda_det.evaluation.coco import CocoMetricsEvaluator, metrics_table

__all__ = ["CocoMetricsEvaluator", "metrics_table"]
