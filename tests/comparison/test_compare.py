"""The command compare with a real training, as small as it gets."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable

import pytest

from lambda_det.commands import compare as command
from lambda_det.data import generate_shapes

pytestmark = pytest.mark.slow

TINY = {
    "INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 128,
    "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "SOLVER.WARMUP_ITERS": 0,
    "MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.MASK_ON": False,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32, "MODEL.ROI_BOX_HEAD.NUM_CONV": 1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10, "MODEL.LAMBDA_RESNET.DEPTH": 26,
}  # fmt: skip


@pytest.fixture
def compare(capsys, monkeypatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """The command in this process -> exit status, what it printed, what it said."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(command, "results_folder", lambda: tmp_path / "project" / "results")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = command.main(list(map(str, arguments)))
        return status, *capsys.readouterr()

    return run


def test_a_training_and_its_controls_become_a_table(compare, content, write_suite, tmp_path):
    generate_shapes(tmp_path / "data", num_train=4, num_val=2, seed=0)
    content |= {"seeds": [5], "controls": ["zeroed", "trained_without"]}
    content["overrides"] = TINY | {"DATASETS.COCO_FOLDER": str(tmp_path / "data")}
    del content["models"]["lambda"]
    out = tmp_path / "out"
    arguments = ["--suite", write_suite(content), "--output", out, "SOLVER.BASE_LR", "0.01"]
    status, text, said = compare(*arguments)
    assert status == 0, said
    record = json.loads((out / "results.json").read_text())
    assert record["schema"] == 1 and record["seeds"] == [5]
    (row,) = record["rows"]
    assert row["label"] == "R-50" and len(row["box_ap"]["values"]) == 1
    assert 13 < row["parameters_millions"] < 17
    assert 0 < row["multiply_adds_billions"] < 5 and row["counted_at"] == "64×128"
    run, without = record["runs"]
    assert {"box_ap", "box_ap_zeroed", "box_ap_trained_without"} <= run.keys()
    assert run["last_norm"]["res5"] > 0 and without["last_norm"]["res5"] == 0
    assert without["last_norm"]["res2"] > 0 and without["state"] == "finished"
    folder = out / "runs" / "plain" / "seed5"
    assert (folder / "zeroed_res4_res5" / "inference" / "metrics.json").is_file()
    # Of the training alone: an evaluation leaves the times of a run, and its config, as they are.
    assert not (folder / "zeroed_res4_res5" / "summary.json").exists()
    assert "model_final.pth" not in (folder / "config.yaml").read_text()
    assert run["inference_ms_per_image"] > 0 and run["peak_host_memory_mib"] > 100
    assert run["train_ms_per_image"] is None  # detectron2 logs every 20 iterations
    assert (out / "results.md").read_text() in text and "| R-50 | 1/1 |" in text
    assert "2 iterations of 2 images (short side 64, at most" in text
    assert "AP in percent. One seed: the spread is unknown." in text  # and no gain over nothing
    assert record["command"] == f"python tools/compare.py {shlex.join(map(str, arguments))}"
    again = compare(*arguments, "--no-run", "--record", "small")
    assert again[:2] == (0, text)
    assert json.loads((tmp_path / "project" / "results" / "small.json").read_text()) == record


def test_nothing_is_run_where_only_the_table_is_wanted(compare, content, write_suite, tmp_path):
    out = tmp_path / "out"
    status, text, _ = compare("--suite", write_suite(content), "--output", out, "--no-run")
    assert status == 1 and "- plain seed 1, new" in text and "| λ-50 | 0/3 | – |" in text
    assert not (out / "runs").exists()


def test_an_unfinished_comparison_is_not_recorded(compare, content, write_suite, tmp_path):
    content["seeds"] = [1]
    out = tmp_path / "out"
    arguments = ["--suite", write_suite(content), "--output", out, "--no-run"]
    status, text, said = compare(*arguments, "--record", "x")
    assert status == 2 and "| λ-50 | 0/1 |" in text and (out / "results.md").is_file()
    assert "2 of 2 runs are not complete: plain seed 1, new; lambda seed 1, new; the same" in said
    assert not list((tmp_path / "project" / "results").iterdir())


def test_numbers_are_shown_though_they_cannot_be_written(compare, content, write_suite, tmp_path):
    out = tmp_path / "out"
    (out / "results.md").mkdir(parents=True)
    status, text, said = compare("--suite", write_suite(content), "--output", out, "--no-run")
    assert status == 2 and "| λ-50 | 0/3 |" in text
    assert (
        said.startswith(f"error: {out}/results.md: cannot be written (") and said.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--record", "../x"], "--record '../x': expected a name of letters"),
        (["--record", "x", "--plan"], "--record x: --plan and --measure give no results"),
        (["--record", "other"], "results/other.json is not a record of suite 'small'"),
        (["--record", "broken"], "results/broken.json is not a record of suite 'small'"),
    ],
)
def test_what_cannot_be_recorded_is_known_before_the_runs(
    compare, content, write_suite, tmp_path, arguments, words
):
    results = tmp_path / "project" / "results"
    results.mkdir(parents=True)
    (results / "other.json").write_text('{"suite": "large"}')
    (results / "broken.json").write_text("[")
    out = tmp_path / "out"
    status, _, said = compare("--suite", write_suite(content), "--output", out, *arguments)
    assert status == 2 and words in said and said.count("\n") == 1
    assert not (out / "runs").exists() and len(list(results.iterdir())) == 2


def test_unknown_published_row_is_known_before_the_runs(compare, content, write_suite, tmp_path):
    content["models"]["plain"]["published"] = "ResNet-7"
    arguments = ["--suite", write_suite(content), "--output", tmp_path / "out", "--plan"]
    status, _, said = compare(*arguments)
    assert status == 2 and "models.plain.published 'ResNet-7'" in said


def test_wrong_suite_is_one_line(compare, content, write_suite, tmp_path):
    content["baseline"] = "gone"
    arguments = ["--suite", write_suite(content), "--output", tmp_path / "out"]
    status, _, said = compare(*arguments)
    assert status == 2
    assert said.startswith("error: suite") and said.count("\n") == 1
