"""The training loop of pretraining. A resumed run continues exactly where the last one stopped."""

from __future__ import annotations

import datetime
import logging
import os
import time
from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from timm.utils import distribute_bn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lambda_det.backbone import build_classifier
from lambda_det.configs import changed_keys
from lambda_det.engine.branches import log_branches, warn_of_closed_branches
from lambda_det.engine.launch import measure_in_float32
from lambda_det.errors import InputError, reason_of
from lambda_det.io import save_atomically
from lambda_det.pretrain.accuracy import MetricsFile, evaluate, sum_over_processes
from lambda_det.pretrain.checkpoint_file import (
    CHECKPOINT,
    FINAL_WEIGHTS,
    checkpoint_content,
    load_checkpoint,
)
from lambda_det.pretrain.image_folder import (
    ImageFolder,
    TrainingOrder,
    build_train_loader,
    build_val_loader,
)
from lambda_det.pretrain.timm_parts import build_ema, build_mixing, build_optimizer, build_scheduler
from lambda_det.randomness import ITERATION, seed_everything

logger = logging.getLogger(__name__)

# A resumed run warns of changed keys with the prefixes RELEVANT, except those in WITHOUT_EFFECT.
RELEVANT = ("PRETRAIN.", "MODEL.LAMBDA_RESNET.", "MODEL.PIXEL_", "SEED")
WITHOUT_EFFECT = ("PRETRAIN.LOG_PERIOD", "PRETRAIN.CHECKPOINT_PERIOD")


class Pretrainer:
    """Trainer of one process of a pretraining. Call ``resume()`` if wanted, then ``train()``.

    Args:
        cfg: config that :func:`check_pretrain_config` accepted.
        data: images and classes.
        device: device of this process.

    Raises:
        InputError: a key has a wrong value, or the data has fewer images than PRETRAIN.BATCH_SIZE.
    """

    def __init__(self, cfg: CfgNode, data: ImageFolder, device: torch.device) -> None:
        node = cfg.PRETRAIN
        self.cfg, self.data, self.device = cfg, data, device
        self.per_epoch = len(data.train) // node.BATCH_SIZE
        if not self.per_epoch:
            raise InputError(
                f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: the training data has "
                f"{len(data.train)} images; expected at most that many"
            )
        self.max_iter = self.per_epoch * node.EPOCHS
        seed_everything(cfg.SEED)  # every process starts with the same weights
        self.bare_model = build_classifier(
            cfg, len(data.classes), drop_path_rate=node.DROP_PATH_RATE, dropout=node.DROPOUT
        ).to(device)
        self.optimizer = build_optimizer(cfg, self.bare_model)
        self.scheduler = build_scheduler(cfg, self.optimizer, self.per_epoch)
        self.mixing = build_mixing(cfg, len(data.classes), device)
        self.ema = build_ema(cfg, self.bare_model)
        self.model: nn.Module = self.bare_model
        if comm.get_world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            measure_in_float32(self.bare_model)
            self.model = DistributedDataParallel(self.bare_model, device_ids=ids)
        self.autocast = partial(
            torch.autocast, device.type, dtype=torch.bfloat16, enabled=node.BF16
        )
        self.val_loader = build_val_loader(
            cfg, data.val, device, comm.get_rank(), comm.get_world_size()
        )
        self.iteration = 0  # number of finished iterations
        self._loss_sum, self._loss_count = torch.zeros((), device=device), 0
        self._clock, self._clock_images = time.perf_counter(), 0

    @property
    def checkpoint_path(self) -> str:
        """Path of the checkpoint from which a run resumes."""
        return os.path.join(self.cfg.OUTPUT_DIR, CHECKPOINT)

    def resume(self) -> None:
        """Load the checkpoint in OUTPUT_DIR, if there is one. Every process reads it.

        Raises:
            InputError: the checkpoint cannot be read, or has another network or other classes.
        """
        if not os.path.exists(self.checkpoint_path):
            logger.info("%s has no checkpoint: starting from iteration 0", self.cfg.OUTPUT_DIR)
            return
        content = load_checkpoint(self.checkpoint_path)
        state, metadata = content["training"], content["metadata"]
        if metadata["classes"] != self.data.classes:
            raise InputError(
                f"--resume: {self.checkpoint_path} was trained on {len(metadata['classes'])} "
                f"classes (first {metadata['classes'][0]!r}), but the data has other ones: "
                f"{len(self.data.classes)} (first {self.data.classes[0]!r})"
            )
        changes = changed_keys(metadata["config"], self.cfg, RELEVANT, WITHOUT_EFFECT)
        if (images := len(self.data.train)) != state["images"]:
            changes.append(f"{images} training images instead of {state['images']}")
        world = comm.get_world_size()
        if (before := state.get("processes", world)) != world:  # absent in older files
            changes.append(f"{world} processes instead of {before}")
        for change in changes:
            logger.warning("this run differs from the one that it resumes: %s", change)
        if (self.ema is None) != (state["ema"] is None):
            raise InputError(
                f"PRETRAIN.EMA_DECAY={self.cfg.PRETRAIN.EMA_DECAY}: {self.checkpoint_path} was "
                f"trained {'without' if state['ema'] is None else 'with'} an average of the weights"
            )
        try:
            self.bare_model.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"--resume: {self.checkpoint_path} belongs to another network or optimiser: "
                f"{reason_of(error)[:200]}"
            ) from error
        self.iteration = state["iteration"]
        self._loss_sum.fill_(state["loss_sum"])
        self._loss_count = state["loss_count"]
        logger.info("resumed after iteration %d", self.iteration)

    def train(self) -> dict[str, float]:
        """Train to the end and write ``model_final.pth``.

        Returns:
            The numbers of the last evaluation, as :meth:`evaluate` does.

        Raises:
            InputError: an image cannot be read, a file cannot be written, or the loss or the
                weights become infinite or NaN.
        """
        self.metrics = MetricsFile(self.cfg.OUTPUT_DIR, self.iteration) if self._is_main else None
        order = TrainingOrder(
            len(self.data.train),
            self.cfg.PRETRAIN.BATCH_SIZE,
            start=self.iteration,
            stop=self.max_iter,
            seed=self.cfg.SEED,
            rank=comm.get_rank(),
            num_processes=comm.get_world_size(),
        )
        results: dict[str, float] = {}
        warn_of_closed_branches(self.bare_model, self.max_iter, "PRETRAIN.EPOCHS gives")
        self._restart_clock()
        for images, targets in build_train_loader(self.cfg, self.data.train, order, self.device):
            self.step(images, targets)
            results = self._after_step() or results
        results = results or self.evaluate()  # a finished run was resumed
        if self._is_main:
            path = os.path.join(self.cfg.OUTPUT_DIR, FINAL_WEIGHTS)
            save_atomically(self._content(), path)
            logger.info("wrote %s, which MODEL.WEIGHTS of a detector accepts", path)
            log_branches(self.bare_model)
        return results

    def step(self, images: Tensor, targets: Tensor) -> None:
        """Run one iteration on this process's images (N, 3, S, S) and classes (N,)."""
        # The random numbers of dropout, stochastic depth and mixup depend on the iteration and the
        # process only, so a resumed run draws the same ones.
        seed_everything(ITERATION, self.cfg.SEED, self.iteration, comm.get_rank())
        self.scheduler.step_update(self.iteration)
        images, targets = self.mixing(images, targets)
        with self.autocast():
            logits = self.model(images)["linear"]
        loss = self.mixing.loss(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.iteration += 1
        if self.ema is not None:
            self.ema.update(self.bare_model, step=self.iteration)
        self._loss_sum += loss.detach()
        self._loss_count += 1
        self._clock_images += self.cfg.PRETRAIN.BATCH_SIZE

    def evaluate(self) -> dict[str, float]:
        """Return ``val_loss``, ``val_top1`` and ``val_top5``, and the average's as ``ema_…``."""
        results = {}
        models = {"val": self.bare_model} | ({} if self.ema is None else {"ema": self.ema.module})
        for prefix, model in models.items():
            if comm.get_world_size() > 1:  # all processes take the statistics of process 0
                distribute_bn(model, comm.get_world_size(), reduce=False)
            values = evaluate(model, self.val_loader, self.autocast)
            results |= {f"{prefix}_{name}": value for name, value in values.items()}
        return results

    def _after_step(self) -> dict[str, float]:
        """Log, evaluate and save if the iteration asks for it; return the evaluation's numbers."""
        node, results = self.cfg.PRETRAIN, {}
        ended = self.iteration == self.max_iter
        epoch, rest = divmod(self.iteration, self.per_epoch)
        period = node.CHECKPOINT_PERIOD or self.per_epoch
        save = rest == 0 or self.iteration % period == 0
        if self.iteration % node.LOG_PERIOD == 0 or ended:
            self._log()
        if save:
            # Every process resumes from the same file, with an equal part of the sum.
            share = (self._loss_of_all() / comm.get_world_size()).item()
            self._check_weights()
        if rest == 0 and (epoch % node.EVAL_PERIOD == 0 or ended):
            results = self.evaluate()
            if self._is_main:
                self.metrics.append({"iteration": self.iteration, "epoch": epoch} | results)
                text = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
                logger.info("after epoch %d: %s", epoch, text)
        if save:
            if self._is_main:
                save_atomically(self._content(loss_sum=share), self.checkpoint_path)
            self._restart_clock()
        return results

    def _log(self) -> None:
        count = comm.get_world_size() * self._loss_count
        loss = (self._loss_of_all() / count).item()
        self._loss_sum, self._loss_count = torch.zeros_like(self._loss_sum), 0
        speed = self._clock_images / (time.perf_counter() - self._clock)
        self._restart_clock()
        if not self._is_main:
            return
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        epoch = self.iteration / self.per_epoch
        images = (self.max_iter - self.iteration) * self.cfg.PRETRAIN.BATCH_SIZE
        eta = datetime.timedelta(seconds=int(images / speed))
        logger.info(
            "iter %d/%d | epoch %.2f | loss %.4f | lr %.4g | %.1f images/s | eta %s",
            *(self.iteration, self.max_iter, epoch, loss, rate, speed, eta),
        )
        line = {"iteration": self.iteration, "epoch": epoch, "loss": loss, "lr": rate}
        self.metrics.append(line | {"images_per_s": speed})

    def _loss_of_all(self) -> Tensor:
        # The clone is needed, because all_reduce works in place.
        total = sum_over_processes(self._loss_sum.clone())
        if not total.isfinite():
            raise self._diverged(f"the loss is {total.item()}")
        return total

    def _check_weights(self) -> None:
        # A step after a finite loss can still make the weights infinite or NaN. All processes have
        # the same weights, so all of them raise the error.
        if not all(weight.isfinite().all() for weight in self.bare_model.parameters()):
            raise self._diverged("weights are not finite")

    def _diverged(self, what: str) -> InputError:
        return InputError(
            f"{what} around iteration {self.iteration}: lower PRETRAIN.LR_PER_256 or raise "
            f"PRETRAIN.WARMUP_EPOCHS; {self.checkpoint_path}, if it exists, is still usable"
        )

    def _restart_clock(self) -> None:
        # The throughput in the log excludes the time of evaluations and checkpoints.
        self._clock, self._clock_images = time.perf_counter(), 0

    @property
    def _is_main(self) -> bool:
        return comm.is_main_process()

    def _content(self, loss_sum: float | None = None) -> dict[str, object]:
        """Return a file's content; with ``loss_sum`` it includes the state to resume from."""
        raw = self.bare_model.state_dict()
        averaged = None if self.ema is None else self.ema.module.state_dict()
        state = {
            "iteration": self.iteration,
            "images": len(self.data.train),
            "processes": comm.get_world_size(),
            "model": raw,
            "ema": averaged,
            "optimizer": self.optimizer.state_dict(),
            "loss_sum": loss_sum,
            "loss_count": self._loss_count,
        }
        return checkpoint_content(
            raw if averaged is None else averaged,
            self.cfg,
            classes=self.data.classes,
            iteration=self.iteration,
            averaged=averaged is not None,
            training=None if loss_sum is None else state,
        )
