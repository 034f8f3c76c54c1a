"""detectron2's DefaultTrainer with our data and evaluator, and checks before iteration 0."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from lambda_det.checkpoint import check_frozen_weights, load_weights
from lambda_det.data import build_test_loader, build_train_loader
from lambda_det.engine.checks import check_model
from lambda_det.engine.progress import PeakGpuMemory, ProgressPrinter
from lambda_det.errors import InputError
from lambda_det.evaluation import CocoMetricsEvaluator

logger = logging.getLogger(__name__)


def _is_no_input_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


# detectron2 logs the traceback of whatever stops a training; a wrong input is to be one line.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)


class Trainer(DefaultTrainer):
    """``Trainer(cfg)``; ``resume_or_load(resume)``; ``train()``, as every detectron2 trainer."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        folder = inference_folder(cfg, dataset_name)
        return CocoMetricsEvaluator(dataset_name, tasks=tasks, output_dir=folder)

    def build_hooks(self) -> list[HookBase]:
        # Before the hook that writes.
        return [PeakGpuMemory(self.cfg.MODEL.DEVICE), *super().build_hooks()]

    def build_writers(self) -> list[EventWriter]:
        return [
            ProgressPrinter(self.max_iter),
            JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json")),
            TensorboardXWriter(self.cfg.OUTPUT_DIR),
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """As detectron2's: the last checkpoint of OUTPUT_DIR, or else MODEL.WEIGHTS.

        Raises:
            InputError: the file cannot be read, or fills less than
                MODEL.LAMBDA_RESNET.MIN_COVERAGE asks for. (What is frozen but was not in it is
                an error too, when the training starts.)
        """
        weights = self.cfg.MODEL.WEIGHTS
        if resume and self.checkpointer.has_checkpoint():
            path = self.checkpointer.get_checkpoint_file()
            try:
                super().resume_or_load(resume=True)
            except Exception as error:  # unpickling raises whatever the bytes happen to mean
                raise InputError(
                    f"--resume: the last checkpoint {path} cannot be read "
                    f"({type(error).__name__}); remove {self.cfg.OUTPUT_DIR}/last_checkpoint to "
                    "start anew, or write the name of an earlier one into it"
                ) from error
        elif weights:
            load_weights(self.model, weights, cfg=self.cfg)
        else:
            logger.info("MODEL.WEIGHTS is empty: training from random weights")

    def before_train(self) -> None:
        check_frozen_weights(self.model, self.cfg.MODEL.WEIGHTS)
        check_model(self.cfg, self.model, comm.get_world_size())
        super().before_train()

    def train(self) -> Mapping[str, object] | None:
        """Train, and return the results of the last evaluation."""
        super().train()
        return getattr(self, "_last_eval_results", None)


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Where the detections and metrics of a dataset go."""
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder
