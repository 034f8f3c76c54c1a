"""Predicts on images and videos: draws the detections, and writes them as COCO JSON."""

from lambda_det.predict.files import predict_files

__all__ = ["predict_files"]
