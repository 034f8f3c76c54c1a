"""Training and evaluation on detectron2's engine."""

from lambda_det.engine.setup import setup_config
from lambda_det.engine.trainer import Trainer, evaluate_weights

__all__ = ["Trainer", "evaluate_weights", "setup_config"]
