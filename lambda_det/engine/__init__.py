"""Training and evaluation on detectron2's engine."""

from lambda_det.engine.evaluate import evaluate_config, evaluate_weights
from lambda_det.engine.lazy import parts_from_lazy
from lambda_det.engine.parts import Parts, RunOptions
from lambda_det.engine.run import run
from lambda_det.engine.setup import setup_config
from lambda_det.engine.trainer import Trainer
from lambda_det.engine.yacs import parts_from_cfg

__all__ = [
    "Parts",
    "RunOptions",
    "Trainer",
    "evaluate_config",
    "evaluate_weights",
    "parts_from_cfg",
    "parts_from_lazy",
    "run",
    "setup_config",
]
