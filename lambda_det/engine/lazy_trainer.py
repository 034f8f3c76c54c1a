"""Our trainer on a LazyConfig: the same steps, checkpoints, signals, checks and evaluation."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode, instantiate
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from lambda_det.checkpoint import load_weights
from lambda_det.configs import find_lazy_config
from lambda_det.data import configure_datasets
from lambda_det.data.loaders import Mapper, TrainingLoader
from lambda_det.data.training_images import check_images
from lambda_det.engine.checks import check_settings
from lambda_det.engine.evaluation_hook import inference_folder
from lambda_det.engine.lazy_settings import (
    keys_without_effect,
    lazy_words,
    load_lazy_config,
    resizes,
    settings_of,
    take_datasets,
)
from lambda_det.engine.setup import check_device, check_values, setup_console, start_run
from lambda_det.engine.trainer import Trainer
from lambda_det.errors import InputError
from lambda_det.records import tool_words

logger = logging.getLogger(__name__)


class LazyTrainer(Trainer):
    """``LazyTrainer(lazy, cfg)``; ``resume_or_load(resume)``; ``train()``.

    A resumed run is the run that nobody disturbed where ``dataloader.train`` is our
    ``training_loader``; with another loader the images come in a new order, which is logged.

    Args:
        lazy: ``model``, ``dataloader.{train,test,evaluator}``, ``optimizer``, ``lr_multiplier``.
        cfg: its settings, see :func:`~lambda_det.engine.lazy_settings.settings_of`.
        config_file, overrides: what ``lazy`` was made of, for the line that says how to go on.
    """

    def __init__(
        self,
        lazy: DictConfig,
        cfg: CfgNode,
        config_file: str = "",
        overrides: Sequence[str] = (),
    ) -> None:
        self.lazy, self.config_file, self.overrides = lazy, config_file, overrides
        super().__init__(cfg)

    def build_model(self, cfg: CfgNode) -> nn.Module:
        return build_lazy_model(self.lazy, cfg)

    def build_optimizer(self, cfg: CfgNode, model: nn.Module) -> Optimizer:
        return build_lazy_optimizer(self.lazy, model)

    def build_lr_scheduler(self, cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
        multiplier = instantiate(self.lazy.lr_multiplier)
        return LRMultiplier(optimizer, multiplier=multiplier, max_iter=cfg.SOLVER.MAX_ITER)

    # An instance has the LazyConfig; detectron2's class method has nothing but cfg.
    def build_train_loader(  # type: ignore[override]
        self, cfg: CfgNode
    ) -> Iterable[list[dict]]:
        node = self.lazy.dataloader.train
        parts = {key: instantiate(value) for key, value in node.items() if key != "_target_"}
        if isinstance(images := parts.get("dataset"), list) and images:
            check_images(cfg, images)
        loader = node._target_(**parts) if callable(node._target_) else instantiate(node)
        if isinstance(loader, TrainingLoader) and cfg.SEED >= 0 and "seed" not in node:
            loader.seed = cfg.SEED
        return loader

    def build_test_loader(  # type: ignore[override]
        self, cfg: CfgNode, dataset_name: str
    ) -> Iterable[list[dict]]:
        return instantiate(self.lazy.dataloader.test)

    def build_evaluator(  # type: ignore[override]
        self, cfg: CfgNode, dataset_name: str
    ) -> DatasetEvaluator:
        return build_lazy_evaluator(self.lazy, inference_folder(cfg, dataset_name), overwrite=True)

    def build_largest_mapper(self) -> Mapper:
        lazy = copy.deepcopy(self.lazy)
        for resize in resizes(lazy, "train"):
            sides = resize.short_edge_length
            largest = max(sides) if OmegaConf.is_list(sides) else sides
            resize.update(short_edge_length=largest, sample_style="choice")
        return instantiate(lazy.dataloader.train.mapper)

    @property
    def test_sets(self) -> Sequence[str]:
        names = self.cfg.DATASETS.TEST[:1] or ("dataloader.test",)
        return names if _is_evaluated(self.lazy) else ()

    def test(self, cfg: CfgNode, model: nn.Module) -> Mapping[str, object]:
        return evaluate_lazy(self.lazy, cfg, model)

    def resume_words(self) -> list[str]:
        words = tool_words("lazyconfig_train_net")
        return [*words, "--config-file", self.config_file, "--resume", *self.overrides]

    def _write_bad_step(
        self,
        images: Sequence[Mapping],
        losses: Mapping[str, float],
        random_states: Mapping[str, Tensor],
    ) -> str:
        return ""  # replay_step builds its model from a YAML config


def build_lazy_model(lazy: DictConfig, cfg: CfgNode) -> nn.Module:
    """The model, on its device."""
    return instantiate(lazy.model).to(cfg.MODEL.DEVICE)


def build_lazy_optimizer(lazy: DictConfig, model: nn.Module) -> Optimizer:
    """The optimiser; ``optimizer.params.model`` is the model, as detectron2 has it."""
    lazy.optimizer.params.model = model
    try:
        return instantiate(lazy.optimizer)
    finally:  # a config with a model in it can neither be copied nor saved
        del lazy.optimizer.params["model"]


def build_lazy_evaluator(
    lazy: DictConfig, folder: str, *, overwrite: bool = False
) -> DatasetEvaluator:
    """``dataloader.evaluator``.

    Args:
        lazy: the config.
        folder: its ``output_dir``, if it takes one and the config names none.
        overwrite: in place of the one that the config names, too.
    """
    node = copy.deepcopy(lazy.dataloader.evaluator)
    target = locate(node._target_) if isinstance(node._target_, str) else node._target_
    takes_folder = "output_dir" in inspect.signature(target).parameters
    if takes_folder and (overwrite or "output_dir" not in node):
        node.output_dir = folder
    return instantiate(node)


def _is_evaluated(lazy: DictConfig) -> bool:
    return OmegaConf.select(lazy, "dataloader.evaluator") is not None


def evaluate_lazy(lazy: DictConfig, cfg: CfgNode, model: nn.Module) -> Mapping[str, object]:
    """The metrics of ``dataloader.evaluator`` on ``dataloader.test``; {} where there is none."""
    if not _is_evaluated(lazy):
        return {}
    evaluator = build_lazy_evaluator(lazy, inference_folder(cfg, ""))
    results = inference_on_dataset(model, instantiate(lazy.dataloader.test), evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def setup_lazy_config(args: Namespace) -> tuple[DictConfig, CfgNode]:
    """A run's LazyConfig and its settings, checked; logging and the output folder are set up too.

    Args:
        args: of detectron2's ``default_argument_parser``; ``opts`` are ``key=value`` words.

    Raises:
        InputError: a file, key or value is wrong; the line names it.
    """
    setup_console()
    args = Namespace(**{**vars(args), "config_file": find_lazy_config(args.config_file)})
    lazy = load_lazy_config(args.config_file, args.opts)
    with lazy_words():
        cfg = settings_of(lazy)
        check_values(cfg)
        check_device(cfg)
        configure_datasets(cfg, for_training=not args.eval_only)
        take_datasets(lazy, cfg)
        start_run(cfg, args, lazy)
        if not args.eval_only:
            check_settings(cfg)
            if idle := keys_without_effect(lazy):
                logger.warning("%s: nothing here reads it", ", ".join(idle))
    return lazy, cfg


def train_or_evaluate(args: Namespace) -> Mapping[str, object]:
    """What ``tools/lazyconfig_train_net.py`` does in every process.

    Returns:
        The results of the (last) evaluation.

    Raises:
        InputError: a file, key or value is wrong; the line names it.
    """
    lazy, cfg = setup_lazy_config(args)
    with lazy_words():
        if args.eval_only:
            if not cfg.MODEL.WEIGHTS:
                raise InputError(
                    "MODEL.WEIGHTS is empty: evaluation needs the weights of a trained model"
                )
            model = build_lazy_model(lazy, cfg)
            load_weights(model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
            return evaluate_lazy(lazy, cfg, model)
        trainer = LazyTrainer(lazy, cfg, os.fspath(args.config_file), args.opts)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train() or {}
