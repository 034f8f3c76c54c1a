"""Images and videos in, drawn images and COCO JSON out."""

from lambda_det.predict.files import predict_files

__all__ = ["predict_files"]
