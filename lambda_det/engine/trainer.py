"""detectron2's DefaultTrainer with our data, evaluator, exact resume and checks at its start."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import weakref
from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from torch import Tensor

from lambda_det.checkpoint import check_frozen_weights, load_weights
from lambda_det.data import build_test_loader, build_train_loader
from lambda_det.data.loaders import Mapper, TrainingLoader
from lambda_det.engine.accumulation import number_of_parts
from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.bad_step import write_bad_step
from lambda_det.engine.best import BestCheckpoint
from lambda_det.engine.branches import BranchReport
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.checks import check_model
from lambda_det.engine.evaluation_hook import EvaluationHook, inference_folder
from lambda_det.engine.interruption import (
    INTERRUPTED_FILE,
    Interruption,
    StopWhenInterrupted,
    TrainingInterrupted,
)
from lambda_det.engine.launch import bare, parallel, share_buffers
from lambda_det.engine.progress import LazyWriter, PeakGpuMemory, ProgressPrinter, ShortHistories
from lambda_det.engine.run_state import (
    METRICS_FILE,
    cut_metrics_file,
    restore_metrics,
    restore_run_state,
    run_state,
    running_means_of_all,
)
from lambda_det.engine.sanity import largest_mapper, sanity_pass
from lambda_det.engine.setup import precision
from lambda_det.engine.step import TrainingStep
from lambda_det.engine.summary import RunSummary
from lambda_det.engine.wandb_writer import WandbWriter
from lambda_det.errors import InputError, one_line
from lambda_det.evaluation import CocoMetricsEvaluator
from lambda_det.io import write_json
from lambda_det.randomness import ITERATION, seed_everything
from lambda_det.records import tool_words

logger = logging.getLogger(__name__)

_STATE = "lambda_det"  # our part of the trainer's state


def _is_no_input_error(record: logging.LogRecord) -> bool:
    one_line_errors = (InputError, FloatingPointError)
    return not (record.exc_info and isinstance(record.exc_info[1], one_line_errors))


# detectron2 logs the traceback of whatever stops a training; wrong input and NaN are one line.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)


class Trainer(DefaultTrainer):
    """``Trainer(cfg)``; ``resume_or_load(resume)``; ``train()``, as every detectron2 trainer.

    A run that was killed, or ended by SIGTERM or SIGINT, and resumed is the run that nobody
    disturbed: its checkpoints hold, with every version of detectron2, all that the next iteration
    depends on, and what is random follows from the seed, the iteration and the image.
    """

    checkpointer_class: type[RunCheckpointer] = RunCheckpointer
    iter: int

    def __init__(self, cfg: CfgNode) -> None:
        # detectron2's own takes, by version, other steps and checkpoints, and no process group of
        # CPUs; the parts and their order are the same.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        parts = number_of_parts(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = TrainingStep(
            parallel(model),
            self.build_train_loader(cfg),
            optimizer,
            precision=precision(cfg),
            max_skipped=cfg.SOLVER.MAX_SKIPPED_STEPS,
            on_bad_step=self._write_bad_step,
            accumulate=parts,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.checkpointer_class(
            model,
            cfg.OUTPUT_DIR,
            keep=cfg.SOLVER.CHECKPOINT_KEEP,
            trainer=weakref.proxy(self),
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self._average = WeightAverage(model, cfg.SOLVER.EMA_DECAY)
        self._best = BestCheckpoint(cfg, self.checkpointer)
        self._interruption = Interruption()
        self._recent_metrics: Mapping[str, Mapping] = {}
        self.running_means: list[dict[str, float]] = []
        self._wandb, self._summary = WandbWriter(cfg), RunSummary(cfg.OUTPUT_DIR)
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        folder = inference_folder(cfg, dataset_name)
        return CocoMetricsEvaluator(dataset_name, tasks=tasks, output_dir=folder)

    def build_largest_mapper(self) -> Mapper:
        return largest_mapper(self.cfg)

    @property
    def test_sets(self) -> Sequence[str]:
        """What an evaluation judges, for :meth:`build_test_loader` and :meth:`build_evaluator`."""
        return self.cfg.DATASETS.TEST

    def build_hooks(self) -> list[HookBase]:
        # Before the hook that writes.
        own = [
            PeakGpuMemory(self.cfg.MODEL.DEVICE),
            ShortHistories(),
            BranchReport(),
            self._average,
        ]
        built = [*own, *super().build_hooks()]
        # Behind the hook that saves, and not only after minutes of evaluation.
        place = next(i for i, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        built[place : place + 1] = [
            StopWhenInterrupted(self._interruption),
            EvaluationHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate),
        ]
        return built

    def build_writers(self) -> list[EventWriter]:
        return [
            ProgressPrinter(self.max_iter),
            LazyWriter(lambda: JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, METRICS_FILE))),
            LazyWriter(lambda: TensorboardXWriter(self.cfg.OUTPUT_DIR)),
            self._wandb,
        ]

    def resume_or_load(self, resume: bool = True) -> None:
        """As detectron2's: the last whole checkpoint of OUTPUT_DIR, or else MODEL.WEIGHTS.

        Raises:
            InputError: no checkpoint can be read, or it is another network's; or MODEL.WEIGHTS
                cannot be read, or fills less than MODEL.LAMBDA_RESNET.MIN_COVERAGE asks for. (What
                is frozen but was not in it is an error too, when the training starts.)
        """
        weights = self.cfg.MODEL.WEIGHTS
        if resume and (path := self.checkpointer.resume()) is not None:
            self.start_iter = self.iter + 1
            logger.info("resumed from %s, after iteration %d", path, self.start_iter)
        elif weights:
            self._summary.begin(load_weights(self.model, weights, cfg=self.cfg))
        else:
            self._summary.begin(None)
            logger.info("MODEL.WEIGHTS is empty: training from random weights")

    def state_dict(self) -> dict[str, object]:
        """In the form of upstream's main version, with our part beside it."""
        return {
            **TrainerBase.state_dict(self),
            "_trainer": self._trainer.state_dict(),
            _STATE: run_state(self),
        }

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take up a state of this class, or what a trainer of detectron2's has left of it."""
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("not an exact resume: the checkpoint holds no state of the optimiser")
        state = state_dict.get(_STATE)
        restore_run_state(self, state)
        self._recent_metrics = state["metrics"] if state else {}

    def before_train(self) -> None:
        check_frozen_weights(self.model, self.cfg.MODEL.WEIGHTS)
        check_model(self.cfg, self.model, comm.get_world_size())
        if self.start_iter:
            self._best.resume()
        restore_metrics(self.storage, self._recent_metrics)
        if comm.is_main_process():
            self.checkpointer.remove_leftovers()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.cfg.OUTPUT_DIR, INTERRUPTED_FILE))
            if self.start_iter:
                cut_metrics_file(self.cfg.OUTPUT_DIR, self.start_iter - 1)
            self._wandb.begin(resume=self.start_iter > 0)
        if not self.start_iter:
            sanity_pass(self)
        super().before_train()

    def run_step(self) -> None:
        if isinstance(self.data_loader, TrainingLoader):
            # What the model draws (regions, dropped paths) depends on nothing before.
            seed_everything(ITERATION, self.data_loader.seed, self.iter, comm.get_rank())
        super().run_step()
        self.running_means = running_means_of_all(self.model)

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # a finished run, resumed, counts one too many
        self._trainer.report_skipped(self.iter)
        try:
            super().after_train()
        except TrainingInterrupted:  # in the last evaluation, which the writers come after
            for hook in self._hooks:
                if isinstance(hook, hooks.PeriodicWriter):
                    hook.after_train()
            raise
        if self.iter >= self.max_iter:
            self._summary.finish()

    def train(self) -> Mapping[str, object] | None:
        """Train, and return the results of the last evaluation.

        Raises:
            TrainingInterrupted: SIGTERM or SIGINT came; the iteration is finished and saved.
            InputError: a checkpoint cannot be written, an image cannot be read.
        """
        with self._interruption.installed():
            try:
                super().train()
            except TrainingInterrupted as stop:
                self._close_loader()  # before the save: its workers wait for half a minute only
                self._save_interrupted(stop)
                raise
            finally:
                self._close_loader()
        return getattr(self, "_last_eval_results", None)

    def resume_words(self) -> list[str]:
        """The command that goes on with this run."""
        path = os.path.join(self.cfg.OUTPUT_DIR, "config.yaml")
        return [*tool_words("train_net"), "--config-file", path, "--resume"]

    def _write_bad_step(
        self,
        images: Sequence[Mapping],
        losses: Mapping[str, float],
        random_states: Mapping[str, Tensor],
    ) -> str:
        folder = os.path.join(self.cfg.OUTPUT_DIR, f"bad_step_{self.iter:07d}")
        if comm.get_world_size() > 1:
            folder += f"_process{comm.get_rank()}"
        try:
            write_bad_step(folder, self.cfg, bare(self.model), images, losses, random_states)
        except (OSError, RuntimeError) as error:  # the disk is full: torch.save has either
            return f"; the step cannot be written to {folder} ({one_line(error)})"
        return f"; to look into it: {shlex.join([*tool_words('replay_step'), folder])}"

    def _evaluate(self) -> Mapping[str, object]:
        share_buffers(self.model)  # all judge the network that process 0 saves
        with self._average.applied():
            with self._interruption.raising(), self._summary.timing(self.model):
                self._last_eval_results = self.test(self.cfg, self.model)
            self._best.offer(self._last_eval_results, min(self.iter, self.max_iter - 1))
        return self._last_eval_results

    def _close_loader(self) -> None:
        if isinstance(self.data_loader, TrainingLoader):
            self.data_loader.close()

    def _save_interrupted(self, stop: TrainingInterrupted) -> None:
        done = min(self.iter + 1, self.max_iter)
        if self.iter < self.max_iter:  # else the last checkpoint is there
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
        if comm.is_main_process():
            facts = {"signal": stop.signal.name, "iteration": done, "max_iter": self.max_iter}
            write_json(facts, os.path.join(self.cfg.OUTPUT_DIR, INTERRUPTED_FILE))
            logger.warning(
                "stopped by %s after iteration %d of %d, which is saved; to go on: %s",
                stop.signal.name, done, self.max_iter, shlex.join(self.resume_words()),
            )  # fmt: skip
        comm.synchronize()  # none may end while process 0 still writes
