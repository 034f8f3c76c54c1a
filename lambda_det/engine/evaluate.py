"""Evaluation of weights outside a training."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from detectron2.config import CfgNode

from lambda_det.backbone import build_detector
from lambda_det.backbone.architectures import STAGES, check_stages
from lambda_det.backbone.residual_branches import zeroed
from lambda_det.checkpoint import load_weights
from lambda_det.configs import load_config
from lambda_det.engine.setup import setup_config
from lambda_det.engine.yacs import AUGMENTED, evaluate_model, inference_folder
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS_FILE
from lambda_det.evaluation.run_folder import zeroed_folder
from lambda_det.io import read_json


def evaluate_weights(
    cfg: CfgNode, *, zeroed_stages: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Evaluate MODEL.WEIGHTS on every dataset of DATASETS.TEST.

    Args:
        cfg: of the model.
        zeroed_stages: stages whose residual branches are taken as 0.

    Returns:
        Task -> metric -> percent (dataset -> task -> ... with several datasets).

    Raises:
        InputError: MODEL.WEIGHTS is empty or cannot be read; DATASETS.TEST is empty; the model has
            no such stage.
    """
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty: evaluation needs the weights of a trained model")
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty: evaluation needs a dataset")
    model = build_detector(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
    with zeroed(model, zeroed_stages):
        return evaluate_model(cfg, model)


def evaluate_config(
    config_file: str,
    overrides: Sequence[str] = (),
    *,
    zeroed_stages: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> dict[str, dict]:
    """Evaluate MODEL.WEIGHTS of a config file on this machine's first device.

    OUTPUT_DIR gets what ``tools/train_net.py --eval-only`` writes; with ``zeroed_stages`` a folder
    in it does, such as ``zeroed_res4_res5``.

    Args:
        config_file: YAML.
        overrides: KEY VALUE pairs.
        zeroed_stages: stages whose residual branches are taken as 0.
        modules: modules to import first, which register datasets or parts of the model.

    Returns:
        Dataset -> task -> metrics, as :func:`~lambda_det.evaluation.counting.count`.

    Raises:
        InputError: a file, key or value is wrong; or a dataset has no annotations.
    """
    check_stages("--zeroed", zeroed_stages)
    zeroed_stages = [stage for stage in STAGES if stage in zeroed_stages]
    words = list(overrides)
    if zeroed_stages:  # from the start: nor may its log lines be taken for the training's
        folder = zeroed_folder(load_config(config_file, words).OUTPUT_DIR, zeroed_stages)
        words += ["OUTPUT_DIR", folder]
    cfg = setup_config(
        Namespace(config_file=config_file, opts=words, eval_only=True, modules=modules)
    )
    evaluate_weights(cfg, zeroed_stages=zeroed_stages)
    results = {}
    for name in cfg.DATASETS.TEST:
        folder = inference_folder(cfg, name)
        path = os.path.join(folder, METRICS_FILE)
        if not os.path.exists(path):
            raise InputError(
                f"DATASETS.TEST: {name!r} has no annotations to judge by; the detections are in "
                f"{folder}"
            )
        results[name] = read_json(path)
        if cfg.TEST.AUG.ENABLED:
            augmented = read_json(inference_folder(cfg, name, AUGMENTED), METRICS_FILE)
            results[name].update({f"{task}{AUGMENTED}": v for task, v in augmented.items()})
    return results
