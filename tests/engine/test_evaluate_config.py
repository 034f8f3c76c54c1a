"""Evaluation of a config where there is nothing to judge by."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from lambda_det import get_cfg
from lambda_det.engine import evaluate, evaluate_config, evaluate_weights, yacs
from lambda_det.engine.setup import start_run
from lambda_det.errors import InputError
from lambda_det.evaluation import CocoMetricsEvaluator


@pytest.fixture
def unjudged(tmp_path: Path):
    """Name of a dataset like COCO's test-dev: images and categories, no annotations."""
    content = {
        "images": [{"id": 5, "file_name": "a.jpg", "height": 30, "width": 40}],
        "categories": [{"id": 7, "name": "seven"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    name = "evaluation_of_nothing"
    register_coco_instances(name, {}, str(tmp_path / "a.json"), str(tmp_path))
    DatasetCatalog.get(name)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_without_annotations_no_older_metrics_are_taken(unjudged, tmp_path, monkeypatch):
    cfg = get_cfg()
    cfg.DATASETS.TEST = (unjudged,)
    cfg.OUTPUT_DIR = str(tmp_path)
    folder = tmp_path / "inference"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"bbox": {"AP": 99}}')
    entry = {"image_id": 5, "category_id": 0, "bbox": [0, 0, 1, 1], "score": 0.5}

    def detections_only(_cfg, *, zeroed_stages) -> None:
        assert not zeroed_stages
        evaluator = CocoMetricsEvaluator(unjudged, ("bbox",), str(folder))
        evaluator.reset()
        evaluator._predictions = [{"image_id": 5, "instances": [dict(entry)]}]
        assert evaluator.evaluate() == {}

    monkeypatch.setattr(evaluate, "setup_config", lambda _args: cfg)
    monkeypatch.setattr(evaluate, "evaluate_weights", detections_only)
    with pytest.raises(InputError, match=f"{unjudged}.*no annotations"):
        evaluate_config("c.yaml")
    written = json.loads((folder / "coco_instances_results.json").read_text())
    assert written == [entry | {"category_id": 7}]
    assert not (folder / "metrics.json").exists()


def test_without_a_dataset():
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = "w.pth"
    cfg.DATASETS.TEST = ()
    with pytest.raises(InputError, match=r"DATASETS\.TEST is empty"):
        evaluate_weights(cfg)


@pytest.mark.parametrize("eval_only", [True, False])
def test_an_evaluation_leaves_the_config_of_the_training(tmp_path, eval_only: bool) -> None:
    """Which ``--resume`` reads; a training writes its own."""
    config = tmp_path / "config.yaml"
    config.write_text("the training's\n")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    start_run(cfg, Namespace(eval_only=eval_only), str(tmp_path))
    assert (config.read_text() == "the training's\n") is eval_only
    if not eval_only:
        assert f"OUTPUT_DIR: {tmp_path}" in config.read_text()


@pytest.mark.parametrize("most", [100, 300, -1])
def test_the_evaluator_counts_what_the_model_gives(unjudged, tmp_path, monkeypatch, most: int):
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (unjudged,), str(tmp_path)
    cfg.TEST.DETECTIONS_PER_IMAGE = most
    made: list[int] = []

    class Recorder(CocoMetricsEvaluator):
        def __init__(self, *args, max_detections: int, **more) -> None:
            made.append(max_detections)
            super().__init__(*args, max_detections=max_detections, **more)

    monkeypatch.setattr(yacs, "CocoMetricsEvaluator", Recorder)
    monkeypatch.setattr(yacs, "build_test_loader", lambda *_: [])
    monkeypatch.setattr(yacs, "inference_on_dataset", lambda *_: {})
    assert yacs.evaluate_model(cfg, None) == {}
    assert made == [most]
