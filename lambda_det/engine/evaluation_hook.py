"""When a training is evaluated, and where that is written."""

from __future__ import annotations

import os

from detectron2.config import CfgNode
from detectron2.engine import hooks


class EvaluationHook(hooks.EvalHook):
    """detectron2's also evaluates when the last iteration has failed, where nobody else may come to
    it: several processes would wait for each other."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the detections and metrics of a dataset go."""
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder
