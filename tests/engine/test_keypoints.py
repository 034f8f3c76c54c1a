"""A model with a keypoint head: trained, evaluated, predicted with; and data that do not fit it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keypoint_folder import NAMES, with_keypoints
from tiny_detector import CONFIG
from tool_runs import run_command

from lambda_det.configs import load_config
from lambda_det.data import LambdaDatasetMapper, build_train_loader, configure_datasets
from lambda_det.engine.run_state import running_means
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import KEYPOINT_METRICS
from lambda_det.predict import predict_files

KEYPOINTS = (
    "MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)",
    "TEST.KEYPOINT_OKS_SIGMAS", "[0.05, 0.05, 0.1]", "DATASETS.TEST", "('coco_2017_val',)",
    "SOLVER.BASE_LR", 0.0025,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("keypoints") / "data"
    return with_keypoints(shapes_folder, output, unlabelled=True)


@pytest.fixture(scope="module")
def words(folder: Path) -> tuple:
    return (*KEYPOINTS, "DATASETS.COCO_FOLDER", folder)


def test_training_evaluation_and_prediction(
    words: tuple, folder: Path, make_training: Callable, tmp_path: Path
) -> None:
    made = make_training(tmp_path, *words, "TEST.BEST_METRIC", "keypoints/AR75")
    assert running_means(made.parts.model) == {}  # the head's loss_normalizer is "visible"
    assert made.parts.model.roi_heads.keypoint_head.num_keypoints == len(NAMES)
    results = made.train()
    assert set(results) == {"bbox", "segm", "keypoints"}
    assert set(results["keypoints"]) >= {*KEYPOINT_METRICS}
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert np.isfinite(json.loads(lines[0])["loss_keypoint"])
    written = json.loads((tmp_path / "inference/metrics.json").read_text())
    assert tuple(written["keypoints"])[:10] == KEYPOINT_METRICS
    entry = json.loads((tmp_path / "inference/coco_instances_results.json").read_text())[0]
    assert len(entry["keypoints"]) == 3 * len(NAMES)

    weights, config = tmp_path / "model_final.pth", tmp_path / "c.yaml"
    config.write_text(made.cfg.dump())
    again = run_command(
        "evaluate", "--config-file", config, "--weights", weights,
        "--output", tmp_path / "o.json", "OUTPUT_DIR", tmp_path / "again",
    )  # fmt: skip
    assert again.returncode == 0 and "keypoints" in again.stdout
    assert json.loads((tmp_path / "o.json").read_text())["keypoints"] == {
        name: written["keypoints"][name] for name in KEYPOINT_METRICS
    }

    cfg = made.cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    image = folder / "val2017"
    done = predict_files(cfg, [str(image)], str(tmp_path / "out"), score_threshold=0.0)
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert done.num_objects == len(found) > 0
    assert all(len(entry["keypoints"]) == 3 * len(NAMES) for entry in found)


def test_a_loss_divided_by_a_number_is_resumed(words, make_training, tmp_path) -> None:
    key = "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"
    made = make_training(tmp_path, *words, key, False, "DATASETS.TEST", "()")
    assert len(running_means(made.parts.model)) == 1
    made.train()


def test_a_flip_exchanges_left_and_right(words: tuple, project: Path) -> None:
    cfg = load_config(str(project / CONFIG), [str(w) for w in (*words, "SEED", 0)])
    configure_datasets(cfg)
    for _, batch in zip(range(2), build_train_loader(cfg), strict=False):
        for image in batch:
            objects = image["instances"]
            boxes, points = objects.gt_boxes.tensor, objects.gt_keypoints.tensor
            labelled = (points[:, :2, 2] > 0).all(dim=1)
            assert labelled.any()
            left, right = (points[labelled, i, 0] for i in (0, 1))
            assert (left < right).all()
            # The mid of a box that no crop has cut is that of its sides.
            assert (((left + right) / 2 - boxes[labelled][:, 0::2].mean(dim=1)).abs() < 3).all()
    assert not LambdaDatasetMapper(cfg, False).use_keypoint


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("TEST.KEYPOINT_OKS_SIGMAS", "[]"), r"TEST\.KEYPOINT_OKS_SIGMAS=\[\]: expected 3 num"),
        (("TEST.KEYPOINT_OKS_SIGMAS", "[1., 0., 1.]"), "expected 3 numbers above 0"),
        (("TEST.AUG.ENABLED", True), "TEST.AUG.ENABLED=True: expected False"),
        (("TEST.BEST_METRIC", "keypoints/AP1"), "expected one of bbox, segm, keypoints"),
        (("MODEL.ROI_KEYPOINT_HEAD.NAME", "Mine"), "expected one of KRCNN"),
    ],
)
def test_values_that_do_not_fit(words, make_training, tmp_path, more, message) -> None:
    with pytest.raises(InputError, match=message):
        make_training(tmp_path, *words, *more)


def test_a_folder_without_keypoints(make_training, shapes_folder, tmp_path) -> None:
    with pytest.raises(InputError, match=r"'keypoints' of names.*MODEL\.KEYPOINT_ON is True"):
        make_training(tmp_path, *KEYPOINTS, "DATASETS.COCO_FOLDER", shapes_folder)


def test_an_annotation_with_too_few_numbers(make_training, folder, tmp_path) -> None:
    for name in ("train2017", "val2017"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "annotations").mkdir()
    for file in (folder / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["annotations"][1]["keypoints"] = [1, 2, 2]
        (tmp_path / "annotations" / file.name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"annotation id 2 has not three numbers.*3 keypoints"):
        make_training(tmp_path / "out", *KEYPOINTS, "DATASETS.COCO_FOLDER", tmp_path)
