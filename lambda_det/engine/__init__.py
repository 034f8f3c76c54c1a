"""Training and evaluation on detectron2's engine."""

from lambda_det.engine.evaluate import evaluate_config, evaluate_weights
from lambda_det.engine.setup import setup_config
from lambda_det.engine.trainer import Trainer

__all__ = ["Trainer", "evaluate_config", "evaluate_weights", "setup_config"]
