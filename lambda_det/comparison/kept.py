"""The JSON that a suite keeps of a finished run (its key ``keep``): enough for every table
and curve, without the run's folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from lambda_det.comparison.examples import validation_set
from lambda_det.comparison.right_classes import objects_found
from lambda_det.comparison.run_facts import (
    built_config,
    class_metrics,
    losses,
    numbers_of,
    train_ms,
    zeroed_missing,
)
from lambda_det.comparison.run_files import changed_settings, facts_of_folder, kept_facts
from lambda_det.comparison.suite import Run
from lambda_det.errors import reason_of, writing
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.records import write_json

logger = logging.getLogger(__name__)


def keep(run: Run) -> None:
    """Write the JSON of a finished run, from its folder, where the suite asks for that and it does
    not exist yet. A run without its zeroed branches waits for them.

    Raises:
        InputError: a file of the run is missing or broken, or it cannot be written.
    """
    if not run.kept or kept_facts(run) is not None or facts_of_folder(run) is None:
        return
    if zeroed_missing(run) is not None:
        return
    content = {
        "key": run.key,
        "settings": run.settings,
        "changed": changed_settings(run),
        "finished": facts_of_folder(run),
        "row": numbers_of(run),
        "losses": losses(run.folder),
        "classes": class_metrics(run.folder),
        "num_classes": num_classes(run),
    }
    with writing(run.kept):
        write_json(content, run.kept, indent=None)


def losses_of(run: Run) -> dict[int, float]:
    """Finished iterations -> total loss."""
    kept = kept_facts(run)
    if kept is None:
        return losses(run.folder)
    return {int(iteration): loss for iteration, loss in kept["losses"].items()}


def class_metrics_of(run: Run) -> Mapping[str, Mapping[str, Mapping]]:
    """Task -> name of a class -> its metrics."""
    kept = kept_facts(run)
    return class_metrics(run.folder) if kept is None else kept["classes"]


def train_ms_of(run: Run) -> float | None:
    """Milliseconds of training per image."""
    kept = kept_facts(run)
    return train_ms(run.folder) if kept is None else kept["row"].get("train_ms_per_image")


def num_classes(run: Run) -> int:
    """Of the dataset that the run was trained on."""
    kept = kept_facts(run)
    if kept is not None:
        return kept["num_classes"]
    model = built_config(run.folder).MODEL
    retina = model.META_ARCHITECTURE == "RetinaNet"
    return model.RETINANET.NUM_CLASSES if retina else model.ROI_HEADS.NUM_CLASSES


def found_by(run: Run) -> dict[str, float]:
    """:func:`~lambda_det.comparison.right_classes.objects_found` by the run on the set that judges
    it; nothing, with a warning, where it cannot be counted."""
    try:
        cfg = built_config(run.folder)
        if not cfg.DATASETS.TEST:
            return {}
        annotations, _ = validation_set(cfg)
        path = os.path.join(run.folder, "inference", DETECTIONS_FILE)
        return objects_found(annotations, path)
    except Exception as error:  # whatever it is: a remark, which must not cost a training
        logger.warning(
            "%s: how many objects were found is not known (%s)", run.name, reason_of(error)
        )
        return {}
