"""What is read from the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.modeling import build_model

from lambda_det.comparison.collect import count_model
from lambda_det.comparison.results import result_of
from lambda_det.comparison.run import Run
from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS
from lambda_det.records import make_record


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "inference").mkdir()
    metrics = {"bbox": dict.fromkeys(METRICS, 5.0), "segm": dict.fromkeys(METRICS)}
    (tmp_path / "inference" / "metrics.json").write_text(json.dumps(metrics))
    facts = {"peak_host_memory_mib": 9.0, "last_attempt_s": 1, "jobs": 1, "gpus": 1}
    facts |= {"resumed": False, "record": make_record("python x", [])}
    (tmp_path / "finished.json").write_text(json.dumps(facts))
    (tmp_path / "config.yaml").write_text(
        "MODEL: {META_ARCHITECTURE: GeneralizedRCNN, ROI_HEADS: {NUM_CLASSES: 3}}\n"
        "SOLVER: {MAX_ITER: 60, IMS_PER_BATCH: 4}"
    )
    summary = {"pretrained_percent": 80.0, "inference_ms_per_image": 12.5, "more": None}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"iteration": 19, "total_loss": 9.0, "time": 9.0, "peak_gpu_memory_mib": 10.0},
        {"iteration": 39, "total_loss": 8.0, "time": 9.0, "peak_gpu_memory_mib": 12.0},
        {"iteration": 19, "total_loss": 7.0, "time": 0.4, "peak_gpu_memory_mib": 11.0},
        {"iteration": 59, "bbox/AP": 3.0},
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    return Run("m", "", 1, "c.yaml", (), str(tmp_path))


def test_result(run: Run):
    result = result_of(run)
    row = result["row"]
    assert row["box_ap"] == 5 and row["mask_ap"] is None
    assert row["train_ms_per_image"] == 100 and row["inference_ms_per_image"] == 12.5
    assert row["peak_gpu_memory_mib"] == 12 and row["pretrained_percent"] == 80
    assert result["losses"] == {20: 7.0, 40: 8.0} and result["num_classes"] == 3


@pytest.mark.parametrize("text", [None, ""])
def test_a_run_without_a_summary_has_all_its_other_numbers(run: Run, text):
    path = Path(run.folder, "summary.json")
    path.unlink() if text is None else path.write_text(text)
    row = result_of(run)["row"]
    assert row["box_ap"] == 5 and row["train_ms_per_image"] == 100
    assert row["inference_ms_per_image"] is row["pretrained_percent"] is None


def test_no_gpu_memory_of_a_run_that_held_none(run: Run):
    path = Path(run.folder, "metrics.json")
    text = path.read_text()
    for value in ("10.0", "11.0", "12.0"):
        text = text.replace(f'memory_mib": {value}', 'memory_mib": 0.0')
    path.write_text(text)
    assert result_of(run)["row"]["peak_gpu_memory_mib"] is None


def test_a_line_that_a_killed_run_has_cut_off_is_left_out(run: Run):
    path = Path(run.folder, "metrics.json")
    path.write_text(path.read_text().replace('"time": 9.0, "peak_gpu_memory_mib": 12.0}', '"tim'))
    result = result_of(run)
    assert result["row"]["peak_gpu_memory_mib"] == 11
    assert result["losses"] == {20: 7.0}


def test_model_is_counted_as_it_is_built(project):
    path = str(project / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml")
    cfg = load_config(path, ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.LAMBDA_RESNET.DEPTH", "26"])
    counted = count_model(cfg)
    parameters = sum(p.numel() for p in build_model(cfg).parameters())
    assert counted["parameters_millions"] == round(parameters / 1e6, 3)
    assert counted["counted_at"] == "160×160" and counted["multiply_adds_billions"] > 1
    assert not any("latency" in name for name in counted)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("inference/metrics.json", "{", "metrics.json is not valid JSON"),
        ("inference/metrics.json", '{"bbox": {"AP": 1}}', "metrics.json: does not contain"),
        ("config.yaml", "a: [", "config.yaml: is not a config"),
        ("finished.json", "{", "finished.json is missing or damaged; run the suite again"),
    ],
)
def test_broken_file_is_named(run: Run, name, text, words):
    Path(run.folder, name).write_text(text)
    with pytest.raises(InputError, match=words) as error:
        result_of(run)
    assert "\n" not in str(error.value)
