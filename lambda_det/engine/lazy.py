"""From a LazyConfig to the parts and options of a training.

The network, the data and the optimiser are built by the LazyConfig itself. What else a training
needs is in ``train``, under detectron2's names where detectron2 has it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from lambda_det.backbone import lambda_resnet_arguments
from lambda_det.checkpoint import load_weights, metadata_of_training
from lambda_det.checkpoint.coverage import Coverage
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.data import LambdaDatasetMapper, detection_test_loader, resolve_datasets
from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.loaders import FirstBatches, TrainingLoader
from lambda_det.data.registering.config_datasets import with_classes_of_training
from lambda_det.data.training_set_checks import TrainingResize, check_images
from lambda_det.engine.checks import check_device, check_pixels, on_device
from lambda_det.engine.evaluation import check_best_metric
from lambda_det.engine.lazy_config import LAZY_NAMES, MAPPER, as_yaml, config_of, has_head, select
from lambda_det.engine.parts import Parts, Results, RunOptions
from lambda_det.engine.values import check_values, options_from_cfg
from lambda_det.engine.yacs import check_schedule, tasks_of
from lambda_det.errors import key, keys_named

# Where the models of detectron2 have what TEST.DETECTIONS_PER_IMAGE is in a YAML config.
_DETECTION_LIMITS = (
    "model.roi_heads.box_predictor.test_topk_per_image",
    "model.max_detections_per_image",
)


def parts_from_lazy(lazy: DictConfig) -> tuple[Parts, RunOptions]:
    """Build the parts and options of the training that a LazyConfig describes.

    A resumed run is the run that nobody disturbed if ``dataloader.train`` is our
    ``training_loader``; with another loader the images come in a new order, which is logged.

    Args:
        lazy: ``model``, ``dataloader.{train,test,evaluator}``, ``optimizer``, ``lr_multiplier`` and
            ``train``. It is not changed.

    Raises:
        InputError: a value is not allowed, or a dataset cannot be used.
    """
    lazy = copy.deepcopy(lazy)
    with keys_named(LAZY_NAMES):
        return build_lazy_parts(lazy, prepare_lazy(lazy))


def prepare_lazy(lazy: DictConfig, *, for_training: bool = True) -> RunOptions:
    """Check the values and the device of a LazyConfig, and write the datasets that are found, and
    the number of classes, into it.

    Returns:
        The options.

    Raises:
        InputError: a value is not allowed, or a dataset cannot be used.
    """
    options = options_from_lazy(lazy)
    check_values(config_of(lazy))
    check_device(lazy_device(lazy))
    take_datasets(lazy, for_training=for_training)
    return options


def build_lazy_parts(lazy: DictConfig, options: RunOptions) -> tuple[Parts, RunOptions]:
    """Build what :func:`parts_from_lazy` does, from a config that :func:`prepare_lazy` has passed
    and its options."""
    device = lazy_device(lazy)
    options = on_device(device, options)
    _check(lazy, options)
    if options.seed >= 0:
        seed_all_rng(options.seed + comm.get_rank())
    model = instantiate(lazy.model).to(device)
    optimizer = _build_optimizer(lazy, model)
    multiplier = instantiate(lazy.lr_multiplier)
    if _is_evaluated(lazy) and _target(lazy.dataloader.test) is detection_test_loader:
        instantiate(lazy.dataloader.test)  # it checks the image files, before the first iteration
    parts = Parts(
        model=model,
        optimizer=optimizer,
        train_loader=_build_train_loader(lazy, options.seed),
        scheduler=LRMultiplier(optimizer, multiplier, options.max_iter),
        evaluate=functools.partial(evaluate_lazy, lazy, folder=options.output_dir)
        if _is_evaluated(lazy)
        else None,
        config=as_yaml(lazy),
        load_weights=functools.partial(load_lazy_weights, lazy),
        metadata=metadata_of_training(
            model, lambda_resnet_arguments(config_of(lazy)), _image_format(lazy)
        ),
    )
    return parts, options


def options_from_lazy(lazy: DictConfig) -> RunOptions:
    """Read the options of the training that a LazyConfig describes.

    Raises:
        InputError: a value is not allowed.
    """
    return options_from_cfg(config_of(lazy), LAZY_NAMES)


def lazy_device(lazy: DictConfig) -> str:
    """Return the device that a LazyConfig names."""
    return select(lazy, "train.device") or "cuda"


def take_datasets(lazy: DictConfig, *, for_training: bool = True) -> None:
    """Write the datasets and the number of classes that are found for a LazyConfig into it.

    Raises:
        InputError: as :func:`~lambda_det.data.resolve_datasets`.
    """
    splits = {split: _names(lazy, split) for split in ("train", "test")}
    limits = ((place, select(lazy, place)) for place in _DETECTION_LIMITS)
    place, limit = next(((p, n) for p, n in limits if isinstance(n, int)), ("", None))
    with keys_named({**LAZY_NAMES, "TEST.DETECTIONS_PER_IMAGE": place}):
        found = resolve_datasets(
            splits["train"],
            splits["test"],
            select(lazy, "train.coco_folder") or "",
            masks=has_head(lazy, "mask_head"),
            keypoints=has_head(lazy, "keypoint_head"),
            for_training=for_training,
            strict=bool(select(lazy, "train.strict")),
            val_share=select(lazy, "train.val_share") or 0.0,
            skip_missing=bool(select(lazy, LAZY_NAMES["DATALOADER.SKIP_UNREADABLE"])),
            detections_per_image=-1 if limit is None else limit,
        )
    nodes = [
        node
        for node in (select(lazy, "model.roi_heads"), lazy.model)
        if isinstance(node, DictConfig) and "num_classes" in node
    ]
    if not for_training:
        weights = select(lazy, LAZY_NAMES["MODEL.WEIGHTS"]) or ""
        found = with_classes_of_training(found, weights, [node.num_classes for node in nodes])
    for split, names in (("train", found.train), ("test", found.test)):
        if splits[split]:
            lazy.dataloader[split].dataset.names = names[0] if len(names) == 1 else list(names)
    for node in nodes if found.classes else ():
        node.num_classes = len(found.classes)


def load_lazy_weights(
    lazy: DictConfig, model: nn.Module, path: str, *, complete: bool = False
) -> Coverage:
    """Load weights into the model of a LazyConfig, as :func:`~lambda_det.checkpoint.load_weights`
    does for a YAML config."""
    cfg = config_of(lazy)
    return load_weights(
        model,
        path,
        complete=complete,
        rules=LoadingRules.from_config(cfg),
        images=_image_format(lazy),
        architecture=lambda_resnet_arguments(cfg),
    )


def evaluate_lazy(
    lazy: DictConfig, model: nn.Module, *, most: int | None = None, folder: str | None = None
) -> Results:
    """Return the metrics of ``dataloader.evaluator`` on ``dataloader.test``; {} without one.

    The evaluator's ``output_dir``, if it takes one, is ``inference`` in a folder.

    Args:
        lazy: the config.
        model: the model, on its device.
        most: number of batches that a process takes at most; None = all.
        folder: that folder, also in place of an ``output_dir`` of the config; None = the config's
            ``output_dir``, or else ``train.output_dir``.
    """
    if not _is_evaluated(lazy):
        return {}
    node = copy.deepcopy(lazy.dataloader.evaluator)
    takes_folder = "output_dir" in inspect.signature(_target(node)).parameters
    if takes_folder and (folder is not None or "output_dir" not in node):
        folder = folder or select(lazy, "train.output_dir") or "./output"
        node.output_dir = os.path.join(folder, "inference")
    loader = instantiate(lazy.dataloader.test)
    loader = loader if most is None else FirstBatches(loader, most)
    results = inference_on_dataset(model, loader, instantiate(node))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _check(lazy: DictConfig, options: RunOptions) -> None:
    cfg = config_of(lazy)
    check_best_metric(options.best_metric, _names(lazy, "test"), tasks_of(cfg))
    if isinstance(select(lazy, LAZY_NAMES["SOLVER.IMS_PER_BATCH"]), int):
        check_schedule(cfg, options)
    if images := _image_format(lazy):
        check_pixels(images)


def _image_format(lazy: DictConfig) -> ImageFormat | None:
    mean, std = (select(lazy, f"model.{name}") for name in ("pixel_mean", "pixel_std"))
    order = select(lazy, "model.input_format")
    if order is None or not OmegaConf.is_list(mean) or not OmegaConf.is_list(std):
        return None
    return ImageFormat(order, tuple(mean), tuple(std))


def _names(lazy: DictConfig, split: str) -> tuple[str, ...]:
    names = select(lazy, f"dataloader.{split}.dataset.names") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _build_optimizer(lazy: DictConfig, model: nn.Module) -> Optimizer:
    lazy.optimizer.params.model = model  # as detectron2 has it
    try:
        return instantiate(lazy.optimizer)
    finally:  # a config with a model in it can neither be copied nor saved
        del lazy.optimizer.params["model"]


def _build_train_loader(lazy: DictConfig, seed: int) -> Iterable:
    node = lazy.dataloader.train
    parts = {name: instantiate(value) for name, value in node.items() if name != "_target_"}
    if isinstance(images := parts.get("dataset"), list) and images:
        if isinstance(mapper := parts.get("mapper"), LambdaDatasetMapper):
            images = parts["dataset"] = usable_images(
                images,
                f"{key('DATASETS.TRAIN')} {_names(lazy, 'train')}",
                mapper.reading,
                skip=parts.get("skip_unreadable", False),
                workers=parts.get("num_workers", 0),
            )
        classes = [select(lazy, f"model.{name}num_classes") for name in ("roi_heads.", "")]
        places = ("model.proposal_generator.anchor_generator", "model.anchor_generator")
        sizes: Sequence = next((s for place in places if (s := select(lazy, f"{place}.sizes"))), [])
        check_images(
            images,
            _names(lazy, "train"),
            resize=_resize(lazy),
            num_classes=next((count for count in classes if isinstance(count, int)), None),
            anchor_sizes=[side for level in sizes for side in level],
        )
    loader = _target(node)(**parts)
    if isinstance(loader, TrainingLoader) and seed >= 0 and "seed" not in node:
        loader.seed = seed
    return loader


def _resize(lazy: DictConfig) -> TrainingResize:
    scale, size = (select(lazy, f"{MAPPER}.augmentations.{name}") for name in ("scale", "size"))
    if scale is not None and size is not None:
        return TrainingResize(fit=(tuple(scale), tuple(size)))
    for node in _resizes(lazy):
        sides = node.short_edge_length
        sides = tuple(sides) if OmegaConf.is_list(sides) else (sides,)
        return TrainingResize(short_sides=sides, longest=node.get("max_size", 1333))
    return TrainingResize(short_sides=(800,), longest=1333)


def _resizes(lazy: DictConfig) -> list[DictConfig]:
    """Return the ``ResizeShortestEdge`` of the training's augmentations."""
    node = select(lazy, f"{MAPPER}.augmentations")
    if isinstance(node, Mapping):  # keep_one_pixel(augmentations=[…])
        node = node.get("augmentations")
    entries = node if isinstance(node, Sequence) else []
    return [e for e in entries if isinstance(e, Mapping) and "short_edge_length" in e]


def set_largest_size(lazy: DictConfig) -> None:
    """Let the training resize all images to the largest of its sizes."""
    for node in _resizes(lazy):
        sides = node.short_edge_length
        largest = max(sides) if OmegaConf.is_list(sides) else sides
        node.update(short_edge_length=largest, sample_style="choice")


def _target(node: DictConfig) -> Any:
    """Return what a node calls; a config that was read from text has its name."""
    return locate(node._target_) if isinstance(node._target_, str) else node._target_


def _is_evaluated(lazy: DictConfig) -> bool:
    return select(lazy, "dataloader.evaluator") is not None
