"""What the replica's models made of shape and kind, which AP does not tell apart.

For the sets of :mod:`lambda_det.data.kinds_scene`: a class is a shape and a kind, and a detector
that ignores where the kind is to be seen gets half of the kinds right by chance.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from lambda_det.data.kinds_scene import KIND_CLASS_NAMES
from lambda_det.errors import InputError
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.detections import read_detections
from lambda_det.experiments.examples import validation_set
from lambda_det.experiments.run_files import FINISHED
from lambda_det.experiments.statistics import spread
from lambda_det.experiments.suite import Run, Suite

IOU = 0.5


def kind_shares(truth: COCO, detections: Sequence[Mapping]) -> dict[str, float]:
    """Shares, in percent, of what the surest detection says of every object.

    An object is found if a detection's box of any class has an IoU of at least :data:`IOU` with its
    box; the one with the highest score speaks for it.

    Args:
        truth: the annotations of a kinds set.
        detections: in COCO's results format, with boxes.

    Returns:
        ``found_percent`` of the objects that are no crosses; of those found, ``shape_percent`` and
        ``kind_percent``, the shares whose shape and whose kind is right; and
        ``cross_kind_percent``, the same for crosses. A share of nothing is left out.

    Raises:
        InputError: the categories are not those of a kinds set.
    """
    names = {c["id"]: c["name"] for c in truth.dataset["categories"]}
    if tuple(names.values()) != KIND_CLASS_NAMES:
        raise InputError(
            f"categories {', '.join(names.values())}: expected {', '.join(KIND_CLASS_NAMES)} "
            "(tools/make_shapes_dataset.py --labels own)"
        )
    per_image = defaultdict(list)
    for entry in detections:
        per_image[entry["image_id"]].append(entry)
    answers: dict[str, list[bool]] = defaultdict(list)
    for image_id, listed in truth.imgToAnns.items():
        entries = sorted(per_image[image_id], key=lambda entry: -entry["score"])
        boxes = np.array([entry["bbox"] for entry in entries], dtype=float).reshape(-1, 4)
        for annotation in listed:
            kind, shape = names[annotation["category_id"]].split("_")
            overlaps = mask_util.iou(boxes, np.array([annotation["bbox"]], dtype=float), [0])
            hits = np.flatnonzero(np.reshape(overlaps, -1) >= IOU)
            if shape != "cross":
                answers["found"].append(len(hits) > 0)
            if not len(hits):
                continue
            said_kind, said_shape = names[entries[hits[0]]["category_id"]].split("_")
            if shape == "cross":
                answers["cross_kind"].append(said_kind == kind)
            else:
                answers["shape"].append(said_shape == shape)
                answers["kind"].append(said_kind == kind)
    return {
        f"{name}_percent": 100 * float(np.mean(answers[name]))
        for name in ("found", "shape", "kind", "cross_kind")
        if answers[name]
    }


def kind_rows(suite: Suite, states: Mapping[Run, str]) -> list[dict[str, object]]:
    """A row per set and model: the shares as mean and standard deviation over the finished seeds.

    Args:
        suite: of :func:`lambda_det.experiments.read_suite`.
        states: run -> state.

    Raises:
        InputError: a file cannot be read, or is not that of a kinds set.
    """
    rows = []
    for set_name in suite.sets:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells that it reads
            truth = COCO(validation_set(suite.configs[set_name, next(iter(suite.labels))])[0])
        for model, label in suite.labels.items():
            shares = []
            for run, state in states.items():
                if (run.set, run.model, run.without, state) == (set_name, model, False, FINISHED):
                    path = os.path.join(run.folder, "inference", DETECTIONS_FILE)
                    shares.append(kind_shares(truth, read_detections(path)))
            row: dict[str, object] = {"set": set_name, "backbone": label, "runs": len(shares)}
            for name in dict.fromkeys(name for share in shares for name in share):
                row[name] = spread([share.get(name) for share in shares])
            rows.append(row)
    return rows
