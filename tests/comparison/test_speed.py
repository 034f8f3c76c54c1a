"""Times of training: for which configs they count, and what is said of their records."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lambda_det.comparison.planning import plan_text
from lambda_det.comparison.speed import speed_settings
from lambda_det.comparison.suite import Suite
from lambda_det.errors import InputError

MACHINE = {"cpu": "a CPU", "cores": 2, "gpu": None}


def row(suite: Suite, model: str, **more: object) -> dict:
    """As --measure writes it."""
    return {
        "label": suite.labels[model], "images_per_iteration": 8, "gpus": 1, "hardware": MACHINE,
        "speed_settings": speed_settings(suite.configs["", model]), "train_ms_per_image": 1800,
        **more,
    }  # fmt: skip


@pytest.fixture
def suite_of(content, read) -> Callable[..., Suite]:
    content["seeds"] = [1]
    content["throughput"] = "times.json"

    def read_it(*overrides: str, gpus: int = 1) -> Suite:
        return read(*overrides, gpus_per_run=gpus)

    return read_it


@pytest.fixture
def plan(output) -> Callable[..., str]:
    def text(suite: Suite, rows: list[dict] | None = None, **more: object) -> str:
        record = {"hardware": MACHINE, **({} if rows is None else {"rows": rows}), **more}
        (output.parent / "times.json").write_text(json.dumps(record))
        return plan_text(suite, str(output), suite.runs, lambda run: run.key)

    return text


def test_a_time_counts_where_all_that_decides_it_is_the_same(suite_of, plan):
    suite = suite_of()
    rows = [row(suite, "plain")]
    # 20 iterations of 8 images of 1.8 s
    assert "  0.08 hours: 1800.0 ms per image on 1 x a CPU with 2 cores (" in plan(suite, rows)
    for key, value in (
        ("MODEL.LAMBDA_RESNET.STEM", "v1"), ("MODEL.FPN.OUT_CHANNELS", "32"),
        ("MODEL.DEVICE", "cuda"), ("SOLVER.IMS_PER_BATCH", "16"), ("SOLVER.AMP.ENABLED", "True"),
        ("INPUT.MAX_SIZE_TRAIN", "96"), ("DATALOADER.NUM_WORKERS", "2"),
    ):  # fmt: skip
        assert plan(suite_of(key, value), rows).count("time unknown\n") == 2, key
    for key, value in (
        ("SOLVER.BASE_LR", "0.1"), ("MODEL.WEIGHTS", "x.pth"),
        ("DATASETS.COCO_FOLDER", "there"), ("INPUT.MIN_SIZE_TEST", "64"),
    ):  # fmt: skip
        assert plan(suite_of(key, value), rows).count("time unknown\n") == 1, key
    # 16 images on two GPUs are 8 on one.
    assert "hours: 1800.0 ms" in plan(suite_of("SOLVER.IMS_PER_BATCH", "16", gpus=2), rows)
    assert "hours: 1800.0 ms" not in plan(suite_of(gpus=2), rows)


def test_hours_of_different_devices_are_summed_apart(suite_of, plan):
    suite = suite_of("SOLVER.MAX_ITER", "2000")
    gpu = MACHINE | {"gpu": "a GPU"}
    rows = [row(suite, "plain"), row(suite, "lambda", hardware=gpu, train_ms_per_image=90)]
    text = plan(suite, rows)
    assert "together 8 hours (a CPU with 2 cores) and 0.4 GPU-hours (a GPU);" in text
    assert text.count("; not this machine)") == 2
    rows[0]["train_ms_per_image"] = 900_000
    assert "together 4000 hours (a CPU" in plan(suite, rows)


def test_machine_of_a_comparison_is_that_of_its_runs(suite_of, plan):
    suite = suite_of()
    rows = [row(suite, "plain")]
    del rows[0]["hardware"]
    gpu = MACHINE | {"gpu": "a GPU"}
    origins = [{"hardware": gpu}, {"hardware": MACHINE}]
    text = plan(suite, rows, origins=origins, hardware=gpu)
    assert "1 x a CPU with 2 cores" in text and "a GPU" not in text
    for wrong in (
        {"hardware": gpu},
        {"origins": [*origins, {"hardware": MACHINE | {"cores": 64}}]},
    ):
        with pytest.raises(InputError, match=r"times.json: the machine that 'R-50' was timed on"):
            plan(suite, rows, **wrong)


def test_a_record_that_does_not_say_what_was_timed_is_a_line(suite_of, plan):
    suite = suite_of()
    record = {"rows": [row(suite, "plain")], "runs": []}
    del record["rows"][0]["speed_settings"]
    with pytest.raises(InputError, match=r"times.json does not say what was timed .*--measure"):
        plan(suite, **record)
