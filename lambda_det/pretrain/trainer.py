"""The training loop of pretraining, which goes on after a kill as if nothing had happened."""

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
from lambda_det.checkpoint.atomic import save_atomically
from lambda_det.configs import changed_keys
from lambda_det.engine.branches import log_branches, warn_of_closed_branches
from lambda_det.engine.launch import measure_in_float32
from lambda_det.errors import InputError
from lambda_det.pretrain.checkpoint import (
    CHECKPOINT,
    FINAL_WEIGHTS,
    checkpoint_content,
    load_checkpoint,
)
from lambda_det.pretrain.data import (
    ImageFolder,
    TrainingOrder,
    build_train_loader,
    build_val_loader,
)
from lambda_det.pretrain.metrics import MetricsFile, evaluate, sum_over_processes
from lambda_det.pretrain.recipe import build_ema, build_mixing, build_optimizer, build_scheduler
from lambda_det.randomness import ITERATION, seed_everything

logger = logging.getLogger(__name__)

# Keys by which a resumed run differs from the one that it goes on with, and those that do not.
RELEVANT = ("PRETRAIN.", "MODEL.LAMBDA_RESNET.", "MODEL.PIXEL_", "SEED")
WITHOUT_EFFECT = ("PRETRAIN.LOG_PERIOD", "PRETRAIN.CHECKPOINT_PERIOD")


class Pretrainer:
    """One process of a pretraining: ``resume()`` if wanted, then ``train()``.

    Args:
        cfg: with the node PRETRAIN, checked.
        data: images and classes.
        device: of this process.

    Raises:
        InputError: a key has a value that is not allowed, or there are fewer images than
            PRETRAIN.BATCH_SIZE.
    """

    def __init__(self, cfg: CfgNode, data: ImageFolder, device: torch.device) -> None:
        node = cfg.PRETRAIN
        self.cfg, self.data, self.device = cfg, data, device
        self.per_epoch = len(data.train) // node.BATCH_SIZE
        if not self.per_epoch:
            raise InputError(
                f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: there are {len(data.train)} images to "
                "train on, an iteration needs that many"
            )
        self.max_iter = self.per_epoch * node.EPOCHS
        seed_everything(cfg.SEED)  # the first weights, the same in every process
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
        self.iteration = 0  # finished
        self._loss_sum, self._loss_count = torch.zeros((), device=device), 0
        self._clock, self._clock_images = time.perf_counter(), 0

    @property
    def checkpoint_path(self) -> str:
        """The file that a resumed run starts from."""
        return os.path.join(self.cfg.OUTPUT_DIR, CHECKPOINT)

    def resume(self) -> None:
        """Go on from the checkpoint in OUTPUT_DIR, which every process reads; none: from 0.

        Raises:
            InputError: it cannot be read, or is another network's or of other classes.
        """
        if not os.path.exists(self.checkpoint_path):
            logger.info("nothing to resume in %s: starting anew", self.cfg.OUTPUT_DIR)
            return
        content = load_checkpoint(self.checkpoint_path)
        state, metadata = content["training"], content["metadata"]
        if metadata["classes"] != self.data.classes:
            raise InputError(
                f"--resume: {self.checkpoint_path} was trained on other classes "
                f"({len(metadata['classes'])}, first {metadata['classes'][0]!r}) than the data's "
                f"({len(self.data.classes)}, first {self.data.classes[0]!r})"
            )
        for line in changed_keys(metadata["config"], self.cfg, RELEVANT, WITHOUT_EFFECT):
            logger.warning("not the run that is resumed: %s", line)
        if state["images"] != len(self.data.train):
            logger.warning(
                "not the run that is resumed: %d images to train on instead of %d",
                len(self.data.train),
                state["images"],
            )
        world = comm.get_world_size()
        if (before := state.get("processes", world)) != world:  # older files lack it
            logger.warning("not the run that is resumed: %d processes instead of %d", world, before)
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
                f"--resume: {self.checkpoint_path} is of another network or optimiser: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        self.iteration = state["iteration"]
        self._loss_sum.fill_(state["loss_sum"])
        self._loss_count = state["loss_count"]
        logger.info("resumed after iteration %d", self.iteration)

    def train(self) -> dict[str, float]:
        """Train to the end, write ``model_final.pth``; return the last evaluation's numbers.

        Raises:
            InputError: an image or a file of the run cannot be read or written, or the loss or
                the weights are not finite.
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
        results = results or self.evaluate()  # resumed at its end
        if self._is_main:
            path = os.path.join(self.cfg.OUTPUT_DIR, FINAL_WEIGHTS)
            save_atomically(self._content(), path)
            logger.info("weights for MODEL.WEIGHTS: %s", path)
            log_branches(self.bare_model)
        return results

    def step(self, images: Tensor, targets: Tensor) -> None:
        """One iteration on this process's images (N, 3, S, S) and classes (N,)."""
        # What dropout, stochastic depth and mixup draw depends on the iteration and the process.
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
        """``val_loss``, ``val_top1``, ``val_top5``; with an average also ``ema_…`` of it."""
        results = {}
        models = {"val": self.bare_model} | ({} if self.ema is None else {"ema": self.ema.module})
        for prefix, model in models.items():
            if comm.get_world_size() > 1:  # the statistics of process 0, which are saved
                distribute_bn(model, comm.get_world_size(), reduce=False)
            values = evaluate(model, self.val_loader, self.autocast)
            results |= {f"{prefix}_{name}": value for name, value in values.items()}
        return results

    def _after_step(self) -> dict[str, float]:
        """Log, evaluate and save where it is time to; return what was evaluated."""
        node, results = self.cfg.PRETRAIN, {}
        ended = self.iteration == self.max_iter
        epoch, rest = divmod(self.iteration, self.per_epoch)
        period = node.CHECKPOINT_PERIOD or self.per_epoch
        save = rest == 0 or self.iteration % period == 0
        if self.iteration % node.LOG_PERIOD == 0 or ended:
            self._log()
        if save:
            # Every process resumes from this file, with its part of the sum.
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
        # A copy: the sum over the processes is made in place.
        total = sum_over_processes(self._loss_sum.clone())
        if not total.isfinite():
            raise self._diverged(f"the loss is {total.item()}")
        return total

    def _check_weights(self) -> None:
        # The last step can spoil them after a finite loss. They are the same in every process.
        if not all(weight.isfinite().all() for weight in self.bare_model.parameters()):
            raise self._diverged("weights are not finite")

    def _diverged(self, what: str) -> InputError:
        return InputError(
            f"{what} around iteration {self.iteration}: lower PRETRAIN.LR_PER_256 or lengthen "
            f"PRETRAIN.WARMUP_EPOCHS; what is in {self.checkpoint_path} is from before"
        )

    def _restart_clock(self) -> None:
        # Evaluations and checkpoints are not part of the throughput.
        self._clock, self._clock_images = time.perf_counter(), 0

    @property
    def _is_main(self) -> bool:
        return comm.is_main_process()

    def _content(self, loss_sum: float | None = None) -> dict[str, object]:
        # With a process's part of the loss: the state to go on from too.
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
