"""Runs a training, from its parts and options: start, end, resume."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import weakref
from collections.abc import Sequence

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from lambda_det.checkpoint import check_frozen_weights, load_weights
from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.checks import check_norms
from lambda_det.engine.evaluation import BestWeights, Evaluation
from lambda_det.engine.hooks import hooks_in_order
from lambda_det.engine.interruption import INTERRUPTED_FILE, Interruption, TrainingInterrupted
from lambda_det.engine.parallel import parallel
from lambda_det.engine.partial_masks import learn_given_masks
from lambda_det.engine.parts import PRECISIONS, Parts, Results, RunOptions
from lambda_det.engine.progress import ProgressPrinter
from lambda_det.engine.run_state import METRICS_FILE, cut_metrics_file
from lambda_det.engine.summary import RunSummary
from lambda_det.engine.trainer import Trainer
from lambda_det.engine.wandb_writer import WandbWriter, check_wandb
from lambda_det.errors import InputError, key, keys_named, release, writing
from lambda_det.io import write_json

logger = logging.getLogger(__name__)


def run(
    parts: Parts,
    options: RunOptions,
    *,
    resume: bool = False,
    hooks: Sequence[HookBase] = (),
) -> Results:
    """Train, and return the results of the last evaluation.

    Every process of a training calls this function. A run that was killed, or ended by SIGTERM or
    SIGINT, and resumed is the run that nobody disturbed: its checkpoints contain all that the next
    iteration depends on, and what is random follows from the seed, the iteration and the image.

    Args:
        parts: the objects of the training.
        options: its values.
        resume: continue from the last whole checkpoint in ``options.output_dir``, if it has one.
        hooks: hooks of detectron2 that act after an iteration's update and before its checkpoint.
            The checkpoint contains the state of one that has ``state_dict``, under its class name.

    Raises:
        InputError: weights, an image or a checkpoint cannot be read, a file cannot be written, or
            a check of the model fails. If an iteration was finished, process 0 saves a checkpoint
            before it raises the error.
        FloatingPointError: a loss or a gradient is not finite.
        TrainingInterrupted: SIGTERM or SIGINT came; the iteration is finished and saved.
    """
    with keys_named(options.key_names or {}):
        return _Run(parts, options, hooks).train(resume)


class _Run:
    """The objects that live as long as a run."""

    def __init__(self, parts: Parts, options: RunOptions, own_hooks: Sequence[HookBase]) -> None:
        self.parts, self.options = parts, options
        if options.wandb:  # in every process, before any of them has made a file
            check_wandb()
        make_output_dir(options.output_dir)
        _check_states(own_hooks)
        learn_given_masks(parts.model)
        self.trainer = Trainer(
            parallel(parts.model),
            parts.train_loader,
            parts.optimizer,
            precision=PRECISIONS[options.precision],
            accumulate=options.accumulate,
            max_skipped=options.max_skipped,
        )
        self.checkpointer = RunCheckpointer(
            parts.model,
            options.output_dir,
            keep=options.keep,
            metadata=parts.metadata,
            trainer=weakref.proxy(self.trainer),
        )
        self.interruption = Interruption()
        self.summary = RunSummary(options.output_dir)
        average = WeightAverage(
            self.trainer.model,
            options.ema_decay,
            self.checkpointer,
            warmup=options.ema_warmup,
        )
        self.evaluation = Evaluation(
            options.eval_period,
            parts.evaluate,
            average=average,
            best=BestWeights(options.best_metric, self.checkpointer),
            interruption=self.interruption,
            summary=self.summary,
        )
        self.trainer.register_hooks(
            hooks_in_order(
                parts,
                options,
                own_hooks,
                model=self.trainer.model,
                average=average,
                checkpointer=self.checkpointer,
                interruption=self.interruption,
                evaluation=self.evaluation,
                make_writers=self._writers,
            )
        )

    def train(self, resume: bool) -> Results:
        with self.interruption.installed():
            start = self._start(resume)
            try:
                self.trainer.train(start, self.options.max_iter)
            except TrainingInterrupted as stop:
                self._close_loader()  # before the save: its workers wait for half a minute only
                self._save_interrupted(stop)
                raise
            except InputError as error:  # such as an image that cannot be read
                self._close_loader()
                release(error)
                self._save_after_error()
                if error.of_all_processes:
                    comm.synchronize()  # the end of one ends the others, which may be writing
                raise
            finally:
                self._close_loader()
        self.summary.finish()
        return self.evaluation.results

    def _writers(self) -> list[EventWriter]:
        options, folder = self.options, self.options.output_dir
        sent: list[EventWriter] = []
        if options.wandb:  # first: if W&B refuses, the others have made no file yet
            resume = self.trainer.start_iter > 0
            sent.append(
                WandbWriter(
                    options.wandb, options.wandb_name, folder, self.parts.config, resume=resume
                )
            )
        return [
            ProgressPrinter(options.max_iter),
            JSONWriter(os.path.join(folder, METRICS_FILE)),
            TensorboardXWriter(folder),
            *sent,
        ]

    def _start(self, resume: bool) -> int:
        """Load a checkpoint or the initial weights; return the first iteration."""
        start, model, weights = 0, self.parts.model, self.options.weights
        if resume and (path := self.checkpointer.resume()) is not None:
            start = self.trainer.iter + 1
            logger.info("resumed from %s, after iteration %d", path, start)
        elif weights:
            self.summary.begin((self.parts.load_weights or load_weights)(model, weights))
        else:
            self.summary.begin(None)
            logger.info("%s is empty: training from random weights", key("MODEL.WEIGHTS"))
        check_frozen_weights(model, weights)
        batch = getattr(self.parts.train_loader, "batch_size", None)
        images = batch // self.options.accumulate if isinstance(batch, int) else None
        check_norms(model, images, comm.get_world_size())
        if comm.is_main_process():
            folder = self.options.output_dir
            self.checkpointer.remove_leftovers()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, INTERRUPTED_FILE))
            if start:
                cut_metrics_file(folder, start - 1)
        return start

    def _close_loader(self) -> None:
        close = getattr(self.parts.train_loader, "close", None)  # ends its worker processes
        if close is not None:
            close()

    def _save_after_error(self) -> None:
        """Save what the error would throw away. Only this process may have met it, so that nothing
        here waits for others."""
        done, last = self.trainer.finished, self.options.max_iter
        if not self.trainer.start_iter < done < last or not comm.is_main_process():
            return  # nothing is new, or the last checkpoint is there
        self.trainer.iter = self.trainer.storage.iter = done - 1
        try:
            self.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        except InputError as error:  # a full disk, which may be what the error is about
            logger.warning("%s", error)
            return
        command = self.parts.resume_command
        logger.warning(
            "an error has ended the training after iteration %d of %d, which is saved; to go on "
            "once its cause is mended: %s",
            done, last, shlex.join(command) if command else "run(parts, options, resume=True)",
        )  # fmt: skip

    def _save_interrupted(self, stop: TrainingInterrupted) -> None:
        iteration, last = self.trainer.iter, self.options.max_iter
        done = min(iteration + 1, last)
        if iteration < last:  # else the last checkpoint is there
            self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        if comm.is_main_process():
            facts = {"signal": stop.signal.name, "iteration": done, "max_iter": last}
            write_json(facts, os.path.join(self.options.output_dir, INTERRUPTED_FILE))
            command = self.parts.resume_command
            logger.warning(
                "stopped by %s after iteration %d of %d, which is saved; to go on: %s",
                stop.signal.name, done, last,
                shlex.join(command) if command else "run(parts, options, resume=True)",
            )  # fmt: skip
        comm.synchronize()  # none may end while process 0 still writes


def make_output_dir(folder: str) -> None:
    """Make OUTPUT_DIR if it does not exist.

    Raises:
        InputError: it is a file or cannot be made.
    """
    name = f"{key('OUTPUT_DIR')}={folder!r}"
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{name}: is a file, not a folder")
    with writing(name):
        os.makedirs(folder, exist_ok=True)


def _check_states(own_hooks: Sequence[HookBase]) -> None:
    """Raise InputError if a checkpoint could not keep the states of two hooks apart."""
    kinds = [type(hook) for hook in own_hooks if type(hook).state_dict is not HookBase.state_dict]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InputError(
                f"hooks: {kinds.count(kind)} are of class {kind.__qualname__}, which has a "
                "state_dict; a checkpoint keeps one state for each class, so derive a class for "
                "each of them"
            )
