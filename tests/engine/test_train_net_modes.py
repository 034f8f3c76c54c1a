"""Trainings on several processes, in half precision, and with losses that are not finite."""

from __future__ import annotations

import json

import pytest
from tool_runs import CONFIG, run_command, train_net

pytestmark = pytest.mark.slow


def test_two_processes_on_a_cpu_evaluate_the_network_that_they_save(
    project, shapes_folder, tiny_overrides, tmp_path
):
    arguments = ("--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder)
    two = tmp_path / "two"
    result = train_net(project, "--num-gpus", 2, *arguments, "OUTPUT_DIR", two, *tiny_overrides)
    assert result.returncode == 0, result.stdout + result.stderr
    result = run_command(
        "train_net", "--eval-only", *arguments, "OUTPUT_DIR", tmp_path / "one", *tiny_overrides,
        "MODEL.WEIGHTS", two / "model_final.pth",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    # BatchNorm measures other images in each process.
    detections = "inference/coco_instances_results.json"
    key = lambda entry: (entry["image_id"], entry["score"], entry["bbox"])  # noqa: E731
    found, expected = (
        sorted(json.loads((folder / detections).read_text()), key=key)
        for folder in (two, tmp_path / "one")
    )
    assert found == expected
    metrics = [
        json.loads((folder / "inference/metrics.json").read_text())
        for folder in (two, tmp_path / "one")
    ]
    assert metrics[0] == metrics[1]


def test_a_loss_that_is_not_finite_is_one_line_that_names_the_module(
    project, shapes_folder, tiny_overrides, tmp_path
):
    result = run_command(
        "train_net", "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides, "SOLVER.BASE_LR", 1e30,
    )  # fmt: skip
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: iteration 1: ") and ".jpg" in line
    assert "output is not finite: backbone.bottom_up.stem." in line
    assert "Traceback" not in result.stdout + result.stderr


def test_bfloat16_trains_on_a_cpu(project, shapes_folder, tiny_overrides, tmp_path):
    result = run_command(
        "train_net", "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides, "SOLVER.MAX_ITER", 1,
        "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "bfloat16",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "training in float32" not in result.stdout
