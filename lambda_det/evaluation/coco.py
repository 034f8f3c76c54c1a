"""COCO metrics of saved predictions, and detectron2's evaluator with the same metrics."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
from collections.abc import Collection, Sequence

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from lambda_det.data.reading.coco_json import CocoSet, read_coco
from lambda_det.data.registering.class_subsets import MODEL_CATEGORY_IDS
from lambda_det.data.registering.coco_folder import images_of
from lambda_det.errors import InputError, key
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detection_limits import COCO_LIMIT, check_limit, warn_of_limit
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.diagnosis import warn_of_zero
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import (
    METRICS_FILE,
    PER_CLASS,
    metric_names,
    metrics_record,
)
from lambda_det.io import write_json

logger = logging.getLogger(__name__)

DETECTIONS_FILE = "coco_instances_results.json"


def evaluate_files(
    annotations: str,
    predictions: str,
    *,
    backend: str = "auto",
    max_detections: int | None = None,
) -> dict[str, dict]:
    """Compute the COCO metrics of saved detections.

    Args:
        annotations: path of a COCO instances json.
        predictions: path of a json in COCO's results format, such as detectron2's
            ``coco_instances_results.json``.
        backend: ``"auto"``, ``"pycocotools"`` or ``"faster-coco-eval"``, see
            :func:`~lambda_det.evaluation.counting.choose_backend`.
        max_detections: as for :func:`~lambda_det.evaluation.counting.count`; None = COCO's 100, and
            a warning if there are more objects of a class in an image.

    Returns:
        For each task (``"bbox"``, ``"segm"``, ``"keypoints"``), the metrics in percent, as
        :func:`~lambda_det.evaluation.counting.count` returns them.

    Raises:
        InputError: a file is missing or not valid; there are no annotations; the predictions are
            not of these images and categories; the back end is not available; or
            ``max_detections`` is not allowed.
    """
    if max_detections is not None:
        check_limit("--max-detections", max_detections)
    ground_truth = GroundTruth.from_file(annotations)
    if not ground_truth.is_labelled:
        raise InputError(f"annotation file {annotations} has no annotations to judge by")
    detections = Detections(
        read_detections(predictions), ground_truth, f"predictions {predictions}"
    )
    if detections.num_images < len(ground_truth.images) / 2:
        logger.warning(
            "predictions %s are of %d of the %d images; objects in the others count as not found. "
            "If only a part of the images was given to the model (DATASETS.VAL_SHARE), its numbers "
            "are those of evaluate --config-file",
            predictions, detections.num_images, len(ground_truth.images),
        )  # fmt: skip
    if max_detections is None:
        max_detections = COCO_LIMIT
        warn_of_limit(ground_truth)
    results = count(ground_truth, detections, backend=backend, max_detections=max_detections)
    warn_of_zero(results, ground_truth, detections, f"predictions {predictions}")
    return results


class CocoMetricsEvaluator(DatasetEvaluator):
    """An evaluator for detectron2 with the metrics of :func:`evaluate_files`, in percent.

    It is detectron2's ``COCOEvaluator`` for annotations as people export them. :meth:`evaluate`
    writes to ``output_dir``: ``coco_instances_results.json`` has the detections,
    ``instances_predictions.pth`` the same as detectron2 has it, and ``metrics.json`` the COCO
    metrics of each task and class (null where COCO does not define a value). For a dataset without
    annotations, such as COCO's test-dev, it writes the detections alone. Detections
    of classes that the dataset does not list are left out; there are some if it lists a part of the
    model's.

    Args:
        dataset_name: name of a dataset that is registered with detectron2.
        tasks: ``"bbox"``, and ``"segm"`` and ``"keypoints"`` if the model predicts them.
        output_dir: folder of the files.
        oks_sigmas, max_detections: as for :func:`~lambda_det.evaluation.counting.count`.

    Raises:
        InputError: on :meth:`evaluate`, if the annotations or the detections are not valid, or if
            the model predicts masks but the annotations have none.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...],
        output_dir: str,
        oks_sigmas: Sequence[float] = (),
        max_detections: int = COCO_LIMIT,
    ) -> None:
        check_limit(key("TEST.DETECTIONS_PER_IMAGE"), max_detections)
        self._name, self._tasks, self._folder = dataset_name, tasks, output_dir
        self._oks_sigmas, self._max_detections = tuple(oks_sigmas), max_detections
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:  # a function returns the dataset
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, path)
            self._metadata.json_file = path
        self.reset()

    @functools.cached_property
    def _ground_truth(self) -> GroundTruth:
        """The annotations; only the process that evaluates reads them."""
        path = PathManager.get_local_path(self._metadata.json_file)
        # What may not be missing was refused before the run.
        content = read_coco(path, self._metadata.get("image_root"), skip_missing=True)
        return GroundTruth(_own_part(content, self._name))

    def reset(self) -> None:
        self._predictions: list[dict] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take the detections of some images.

        Args:
            inputs: the images, with ``image_id``.
            outputs: what the model returned for them; ``instances`` is taken.
        """
        for image, output in zip(inputs, outputs, strict=True):
            number, instances = image["image_id"], output["instances"].to("cpu")
            entries = instances_to_coco_json(instances, number)
            self._predictions.append({"image_id": number, "instances": entries})

    def evaluate(self, img_ids: Collection[int] | None = None) -> dict[str, dict[str, float]]:
        """Return task -> metric -> percent, in the first process; {} in the others.

        Args:
            img_ids: ids of the images to evaluate; None takes all.

        Raises:
            InputError: see the class.
        """
        comm.synchronize()
        predictions = [p for part in comm.gather(self._predictions) for p in part]
        if not comm.is_main_process():
            return {}
        if not predictions:
            logger.warning("no image of %s was given to the model", self._name)
            return {}
        os.makedirs(self._folder, exist_ok=True)
        torch.save(predictions, os.path.join(self._folder, "instances_predictions.pth"))
        entries = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous is not None:
            category_ids = {index: category_id for category_id, index in contiguous.items()}
            model_ids = self._metadata.get(MODEL_CATEGORY_IDS)
            if model_ids is not None:
                category_ids = dict(enumerate(model_ids))
            for entry in entries:
                entry["category_id"] = category_ids[entry["category_id"]]
            if model_ids is not None:
                entries = self._of_listed_classes(entries, contiguous, len(model_ids))
        truth, source = self._ground_truth, f"detections on {self._name}"
        detections = self._checked(entries, source) if truth.is_labelled else None
        write_json(entries, os.path.join(self._folder, DETECTIONS_FILE), indent=None)
        if detections is None:
            with contextlib.suppress(FileNotFoundError):  # the metrics of an earlier evaluation
                os.unlink(os.path.join(self._folder, METRICS_FILE))
            logger.info("%s has no annotations, so no metrics are computed", self._name)
            return {}
        results = count(
            truth,
            detections,
            image_ids=img_ids,
            oks_sigmas=self._oks_sigmas,
            max_detections=self._max_detections,
        )
        warn_of_zero(results, truth, detections, source)
        results = {task: results[task] for task in sorted(self._tasks) if task in results}
        write_json(metrics_record(results), os.path.join(self._folder, METRICS_FILE))
        return {task: flat_results(values, task) for task, values in results.items()}

    def _of_listed_classes(
        self, entries: list[dict], listed: Collection[int], num_classes: int
    ) -> list[dict]:
        """Leave out the detections of classes that the dataset does not list, and log how many."""
        kept = [entry for entry in entries if entry["category_id"] in listed]
        logger.info(
            "%s lists %d of the model's %d classes: %d of %d detections are of the others and are "
            "left out",
            self._name, len(listed), num_classes, len(entries) - len(kept), len(entries),
        )  # fmt: skip
        return kept

    def _checked(self, entries: list[dict], source: str) -> Detections:
        file = f"annotation file {self._ground_truth.source}"
        if "segm" in self._tasks and not self._ground_truth.has_masks:
            raise InputError(
                f"{file} has no masks, and the model predicts them: set MODEL.MASK_ON False"
            )
        if "keypoints" in self._tasks and not self._ground_truth.num_keypoints:
            raise InputError(
                f"{file} has no keypoints, or different numbers of them, and the model predicts "
                "them: set MODEL.KEYPOINT_ON False"
            )
        return Detections(entries, self._ground_truth, source)


def _own_part(content: CocoSet, dataset_name: str) -> CocoSet:
    """The images of a json that a dataset has, with their annotations."""
    listed = [image["id"] for image in content.images]
    own = images_of(dataset_name, listed)
    if own is listed:
        return content
    return content._replace(
        images=[image for image in content.images if image["id"] in own],
        annotations=[one for one in content.annotations if one["image_id"] in own],
    )


def flat_results(values: dict, task: str = "bbox") -> dict[str, float]:
    """Convert the metrics of a task to detectron2's form.

    Args:
        values: metrics of one task from :func:`~lambda_det.evaluation.counting.count`.
        task: name of the task.

    Returns:
        Metric -> percent, NaN where it is undefined; the AP of a class is called ``AP-<class>``.
    """
    flat = {name: values[name] for name in metric_names(task)}
    if len(values[PER_CLASS]) > 1:
        flat.update({f"AP-{entry['name']}": entry["AP"] for entry in values[PER_CLASS]})
    return {name: math.nan if value is None else value for name, value in flat.items()}
