"""TEST.AUG.ENABLED: test-time augmentation at the end of a training, and in an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import GeneralizedRCNNWithTTA
from tool_runs import run_command

from lambda_det.data import build_test_loader
from lambda_det.errors import InputError

AUGMENTED = (
    "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(64, 96)", "DATASETS.TEST",
    "('coco_2017_val',)", "TEST.EVAL_PERIOD", 1, "MODEL.MASK_ON", False, "SOLVER.MAX_ITER", 2,
    "SOLVER.BASE_LR", 0.0025,
)  # fmt: skip


@pytest.mark.slow
def test_only_the_last_evaluation_is_augmented(make_training: Callable, tmp_path: Path) -> None:
    made = make_training(tmp_path, *AUGMENTED)
    results = made.train()
    assert set(results) == {"bbox", "bbox_TTA"}
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    plain, augmented = (
        {i for line in lines if (i := line["iteration"]) is not None and f"{task}/AP" in line}
        for task in ("bbox", "bbox_TTA")
    )
    assert len(plain) == 2 and augmented == {max(plain)}
    assert (tmp_path / "inference_TTA/metrics.json").exists()

    (dataset,) = made.parts.evaluate.args[0].DATASETS.TEST
    evaluator = COCOEvaluator(dataset, ("bbox",), output_dir=None, use_fast_impl=False)
    network = GeneralizedRCNNWithTTA(made.parts.evaluate.args[0], made.parts.model)
    loader = build_test_loader(made.parts.evaluate.args[0], dataset)
    theirs = inference_on_dataset(network, loader, evaluator)["bbox"]
    names = ("AP", "AP50", "APl")
    assert [results["bbox_TTA"][n] for n in names] == pytest.approx(
        [theirs[n] for n in names], nan_ok=True
    )

    (tmp_path / "c.yaml").write_text(made.cfg.dump())
    done = run_command(
        "evaluate", "--config-file", tmp_path / "c.yaml", "--weights", tmp_path / "model_final.pth",
        "--output", tmp_path / "o.json", "OUTPUT_DIR", tmp_path / "again",
    )  # fmt: skip
    assert "bbox_TTA" in done.stdout
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["bbox_TTA"]["AR100"] == pytest.approx(results["bbox_TTA"]["AR100"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("TEST.AUG.MIN_SIZES", "()"), r"TEST\.AUG\.MIN_SIZES=\(\): expected whole numbers"),
        (("MODEL.META_ARCHITECTURE", "RetinaNet"), "expected False, .*'RetinaNet'"),
        (("MODEL.META_ARCHITECTURE", "PanopticFPN"), "expected False, .*'PanopticFPN'"),
        (("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "nrom"), "'nrom': expected one of value, norm"),
    ],
)
def test_values_that_do_not_fit(make_training, tmp_path, more, message) -> None:
    with pytest.raises(InputError, match=message):
        make_training(tmp_path, *AUGMENTED, *more)
