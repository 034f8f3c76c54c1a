"""From a YAML config to the parts and options of a training."""

from __future__ import annotations

import functools
import logging
import os

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import get_event_storage
from torch import nn

from lambda_det.backbone import build_detector, lambda_resnet_arguments
from lambda_det.checkpoint import load_weights, metadata_of_training
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.data import (
    LambdaDatasetMapper,
    build_test_loader,
    build_train_loader,
    configure_datasets,
)
from lambda_det.data.loaders import FirstBatches, TrainingLoader
from lambda_det.engine.accumulation import check_accumulation
from lambda_det.engine.checks import Recipe, check_device, check_pixels, check_solver, on_device
from lambda_det.engine.evaluation import check_best_metric
from lambda_det.engine.norm_measurement import TrainingImages
from lambda_det.engine.parts import Parts, RunOptions
from lambda_det.engine.values import check_values, options_from_cfg
from lambda_det.evaluation import CocoMetricsEvaluator

logger = logging.getLogger(__name__)

AUGMENTED = "_TTA"
"""Ending of the tasks, and of the folder, of an evaluation with test-time augmentation."""


def prepare(cfg: CfgNode, *, for_training: bool = True) -> None:
    """Check the values and the device of a config, and write the datasets that are found into it.

    Args:
        cfg: an unfrozen config with the keys of lambda_det. It is changed in place.
        for_training: False for an evaluation.

    Raises:
        InputError: a value is not allowed, or a dataset cannot be used.
    """
    check_values(cfg)
    check_device(cfg.MODEL.DEVICE)
    configure_datasets(cfg, for_training=for_training)


def parts_from_cfg(cfg: CfgNode) -> tuple[Parts, RunOptions]:
    """Build the parts and options of the training that a config describes.

    The datasets of ``DATASETS.TRAIN`` and ``TEST`` are registered, as
    :func:`~lambda_det.data.configure_datasets` does, and set the numbers of classes. ``cfg`` itself
    is not changed.

    Args:
        cfg: the config, with the keys of lambda_det.

    Raises:
        InputError: a value is not allowed, a dataset cannot be used, or the keys contradict each
            other.
    """
    frozen, cfg = cfg.is_frozen(), cfg.clone()
    cfg.defrost()
    prepare(cfg)
    if frozen:
        cfg.freeze()
    return build_parts(cfg)


def build_parts(cfg: CfgNode, recipe: Recipe | None = None) -> tuple[Parts, RunOptions]:
    """Build what :func:`parts_from_cfg` does, from a config that :func:`prepare` has passed.

    Args:
        cfg: the config.
        recipe: the learning rate and the batch that it was chosen for; None = not known.
    """
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    options = on_device(cfg.MODEL.DEVICE, options_from_cfg(cfg))
    check_best_metric(options.best_metric, cfg.DATASETS.TEST, tasks_of(cfg))
    check_schedule(cfg, options, recipe)
    check_pixels(ImageFormat.from_config(cfg))

    if options.seed >= 0:
        seed_all_rng(options.seed + comm.get_rank())
    model = build_detector(cfg)
    optimizer = build_optimizer(cfg, model)
    loader = build_train_loader(cfg)
    for name in cfg.DATASETS.TEST:  # its image files are checked before the first iteration
        build_test_loader(cfg, name)
    parts = Parts(
        model=model,
        optimizer=optimizer,
        train_loader=loader,
        scheduler=build_lr_scheduler(cfg, optimizer),
        evaluate=functools.partial(evaluate_model, cfg) if cfg.DATASETS.TEST else None,
        config=cfg.dump(),
        load_weights=functools.partial(load_weights, cfg=cfg, measure=_measurement(cfg, loader)),
        metadata=metadata_of_training(
            model, lambda_resnet_arguments(cfg), ImageFormat.from_config(cfg)
        ),
    )
    if options.precise_bn:
        own = cfg.clone()
        own.defrost()
        own.DATALOADER.NUM_WORKERS = 0  # it is read at evaluations only
        parts.statistics_loader = build_train_loader(own)
    return parts, options


def _measurement(cfg: CfgNode, loader: TrainingLoader) -> TrainingImages | None:
    number = cfg.MODEL.LAMBDA_RESNET.MEASURE_NORMS
    if not number:
        return None
    return TrainingImages(
        loader.images,
        number,
        LambdaDatasetMapper(cfg, False),
        ImageFormat.from_config(cfg),
        skip=cfg.DATALOADER.SKIP_UNREADABLE,
    )


def check_schedule(cfg: CfgNode, options: RunOptions, recipe: Recipe | None = None) -> None:
    """Check the learning rate, the warm-up and the parts of a batch against its size.

    Raises:
        InputError: a batch cannot be divided.
    """
    solver = cfg.SOLVER
    check_solver(
        solver.BASE_LR,
        solver.IMS_PER_BATCH,
        max_iter=options.max_iter,
        warmup_iters=solver.WARMUP_ITERS,
        recipe=recipe,
    )
    check_accumulation(options.accumulate, solver.IMS_PER_BATCH, comm.get_world_size())


def evaluate_model(
    cfg: CfgNode, model: nn.Module, *, most: int | None = None, folder: str | None = None
) -> dict[str, dict]:
    """Evaluate a model on every dataset of ``DATASETS.TEST``; all processes call this.

    The detections and metrics of a dataset are written to :func:`inference_folder`. With
    ``TEST.AUG.ENABLED``, detectron2's test-time augmentation is evaluated as well, in a training
    only at its end, because it takes many times as long.

    Args:
        cfg: the config, whose datasets are registered.
        model: the model, on its device.
        most: number of images of each dataset that a process takes at most; None = all.
        folder: where the files are written; None = ``OUTPUT_DIR``.

    Returns:
        Task -> metric -> percent; dataset -> task -> metric -> percent of several datasets. Tasks
        with test-time augmentation end in ``_TTA``.
    """
    networks = {"": model}
    if cfg.TEST.AUG.ENABLED and not _goes_on(cfg):
        networks[AUGMENTED] = GeneralizedRCNNWithTTA(cfg, model)
    results: dict[str, dict] = {}
    for name in cfg.DATASETS.TEST:
        results[name] = {}
        for ending, network in networks.items():
            output_dir = inference_folder(cfg, name, ending, folder)
            evaluator: DatasetEvaluator = (
                COCOEvaluator(name, tasks=("bbox",), output_dir=output_dir, use_fast_impl=False)
                if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"  # its recall
                else CocoMetricsEvaluator(
                    name,
                    tasks=tasks_of(cfg),
                    output_dir=output_dir,
                    oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
                    max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
                )
            )
            loader = build_test_loader(cfg, name)
            loader = loader if most is None else FirstBatches(loader, most)
            found = inference_on_dataset(network, loader, evaluator) or {}
            results[name].update({f"{task}{ending}": values for task, values in found.items()})
        if comm.is_main_process():
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results[name])
    return results if len(results) != 1 else next(iter(results.values()))


def _goes_on(cfg: CfgNode) -> bool:
    """Whether this is within a training that has iterations left."""
    try:
        return get_event_storage().iter < cfg.SOLVER.MAX_ITER
    except AssertionError:  # outside of any training
        return False


def tasks_of(cfg: CfgNode) -> tuple[str, ...]:
    """Return COCO's names of what the model of a config predicts."""
    more = {"segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    return ("bbox", *(task for task, is_on in more.items() if is_on))


def inference_folder(
    cfg: CfgNode, dataset_name: str, ending: str = "", root: str | None = None
) -> str:
    """Return the folder of the detections and metrics of a dataset.

    Args:
        cfg: the config.
        dataset_name: name of the dataset.
        ending: of the folder's name.
        root: the folder that it is in; None = ``OUTPUT_DIR``.
    """
    folder = os.path.join(cfg.OUTPUT_DIR if root is None else root, f"inference{ending}")
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder
