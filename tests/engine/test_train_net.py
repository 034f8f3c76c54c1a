"""The command line: training, evaluation, and the line that a wrong input gets."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from tool_runs import CONFIG, run_command, train_net

from lambda_det.commands import train_net as train_net_module
from lambda_det.evaluation import evaluate_files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(project, shapes_folder, tiny_overrides, tmp_path_factory) -> Path:
    """The output folder of two iterations and an evaluation."""
    output = tmp_path_factory.mktemp("trained") / "run"
    result = train_net(
        project,
        "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", output, *tiny_overrides,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout.partition("Evaluation of coco_folder_val2017 (percent):")[2]
    assert "box" in table and "mask" in table and "APl" in table
    return output


def test_training_writes_losses_weights_curves_and_metrics(trained):
    records = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    losses = [record["total_loss"] for record in records if "total_loss" in record]
    assert losses and all(math.isfinite(loss) for loss in losses)
    assert (trained / "model_final.pth").is_file()
    assert list(trained.glob("events.out.tfevents*"))
    metrics = json.loads((trained / "inference" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}
    assert "iter 2/2" in (trained / "log.txt").read_text()


def test_training_says_how_far_its_branches_are_open(trained):
    lines = (trained / "metrics.json").read_text().splitlines()
    (last,) = (record for record in map(json.loads, lines) if "last_norm/res2" in record)
    assert last["iteration"] == 1
    stages = ("res2", "res3", "res4", "res5")
    assert all(0.5 < last[f"last_norm/{stage}"] < 1.5 for stage in stages)  # they started at 1
    assert all(0.9 < last[f"embedding_rms/{stage}"] < 1.1 for stage in ("res4", "res5"))
    log = (trained / "log.txt").read_text()
    assert "mean |last norm| of the residual branches: res2 " in log
    assert "residual branches start at 0" not in log


def test_zeroed_evaluation_lies_beside_that_of_the_whole_network(
    project, trained, shapes_folder, tmp_path
):
    kept = {path: path.read_bytes() for path in trained.rglob("*.json")}
    result = run_command(
        "evaluate",
        "--config-file", trained / "config.yaml", "--zeroed", "res4,res5",
        "--output", tmp_path / "zeroed.json", "--weights", trained / "model_final.pth",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert kept == {path: path.read_bytes() for path in kept}
    written = json.loads((trained / "zeroed_res4_res5/inference/metrics.json").read_text())
    zeroed = json.loads((tmp_path / "zeroed.json").read_text())
    assert all(zeroed[task]["AP"] == written[task]["AP"] for task in ("bbox", "segm"))
    detections = "inference/coco_instances_results.json"
    whole = (trained / detections).read_text()
    assert (trained / "zeroed_res4_res5" / detections).read_text() != whole


def test_eval_only_reproduces_the_metrics_of_the_training(
    project, trained, shapes_folder, tiny_overrides, tmp_path
):
    result = run_command(
        "train_net",
        "--config-file", CONFIG, "--eval-only", "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "eval", *tiny_overrides,
        "MODEL.WEIGHTS", trained / "model_final.pth",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "AP50" in result.stdout
    again = json.loads((tmp_path / "eval" / "inference" / "metrics.json").read_text())
    assert again == json.loads((trained / "inference" / "metrics.json").read_text())
    detections = "inference/coco_instances_results.json"
    assert (tmp_path / "eval" / detections).read_text() == (trained / detections).read_text()


def test_evaluate_py_gives_the_metrics_of_the_training_from_weights_and_from_files(
    project, trained, shapes_folder, tmp_path
):
    """The config is the dumped one: it starts the same run again."""
    metrics = json.loads((trained / "inference" / "metrics.json").read_text())
    assert all(len(values["per_class"]) > 1 for values in metrics.values())
    result = run_command(
        "evaluate",
        "--config-file", trained / "config.yaml", "--output", tmp_path / "weights.json",
        "OUTPUT_DIR", tmp_path / "again", "MODEL.WEIGHTS", trained / "model_final.pth",
        "--per-class",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "APl" in result.stdout and "AR100" in result.stdout
    assert json.loads((tmp_path / "weights.json").read_text()) == metrics
    files = evaluate_files(
        str(shapes_folder / "annotations" / "instances_val2017.json"),
        str(trained / "inference" / "coco_instances_results.json"),
    )
    assert files == metrics


def test_resume_continues_after_the_last_iteration(
    project, trained, shapes_folder, tiny_overrides, tmp_path
):
    arguments = [
        "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides,
    ]  # fmt: skip
    first = run_command("train_net", *arguments)
    assert first.returncode == 0, first.stderr
    second = run_command("train_net", "--resume", *arguments, "SOLVER.MAX_ITER", 3)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Starting training from iteration 2" in second.stdout


def _text_weights(folder: Path) -> Path:
    path = folder / "weights.pth"
    path.write_text("<html>404</html>")
    return path


WRONG = {
    "a value of the backbone": (
        ["MODEL.LAMBDA_RESNET.VARIANT", "lamda"],
        ["MODEL.LAMBDA_RESNET.VARIANT", "'lamda'", "lambda_full"],
    ),
    "frozen norms never loaded": (
        ["MODEL.LAMBDA_RESNET.NORM", "FrozenBN"],
        ["FrozenBN layers of the model", "MODEL.LAMBDA_RESNET.NORM 'BN'"],
    ),
    "frozen random weights": (["MODEL.BACKBONE.FREEZE_AT", "2"], ["FREEZE_AT", "stem.conv1"]),
    "unknown key": (["MODEL.LAMBDA_RESNET.DEEPTH", "50"], ["MODEL.LAMBDA_RESNET.DEEPTH"]),
    "wrong type": (["MODEL.LAMBDA_RESNET.DEPTH", "deep"], ["MODEL.LAMBDA_RESNET.DEPTH"]),
    "absent weights": (["MODEL.WEIGHTS", "/nowhere/w.pth"], ["MODEL.WEIGHTS", "/nowhere/w.pth"]),
    "no gpu": (["MODEL.DEVICE", "cuda"], ["MODEL.DEVICE", "cuda", "cpu"]),
}


@pytest.fixture(scope="module")
def run_in_process(project):
    """train_net with arguments, in this process (importing torch takes seconds)."""

    def run(monkeypatch, *arguments: object) -> int:
        # detectron2 keeps its loggers, and with them the captured stdout of an earlier test.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.chdir(project)
        return train_net_module.main(list(map(str, arguments)))

    return run


def assert_one_line(capfd, words: list[str]) -> None:
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_config_value(
    case, run_in_process, shapes_folder, tiny_overrides, tmp_path, monkeypatch, capfd
):
    overrides, words = WRONG[case]
    if case == "no gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    status = run_in_process(
        monkeypatch,
        "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides, *overrides,
    )  # fmt: skip
    assert status == 2
    assert_one_line(capfd, words)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-file", "configs/none.yaml"], ["configs/none.yaml", "no such file"]),
        (
            ["--config-file", CONFIG, "DATASETS.COCO_FOLDER", "/nowhere"],
            ["COCO_FOLDER", "/nowhere"],
        ),
        (["--config-file", CONFIG, "SOLVER.MAX_ITER"], ["SOLVER.MAX_ITER", "odd"]),
    ],
)
def test_wrong_file(arguments, words, run_in_process, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert run_in_process(monkeypatch, *arguments) == 2
    assert_one_line(capfd, words)


def test_weights_that_are_no_checkpoint(
    run_in_process, shapes_folder, tiny_overrides, tmp_path, monkeypatch, capfd
):
    status = run_in_process(
        monkeypatch,
        "--config-file", CONFIG, "--eval-only", "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides,
        "MODEL.WEIGHTS", _text_weights(tmp_path),
    )  # fmt: skip
    assert status == 2
    assert_one_line(capfd, ["MODEL.WEIGHTS", "weights.pth", "checkpoint"])


def test_weights_of_another_model_are_not_evaluated(
    run_in_process, trained, shapes_folder, tiny_overrides, tmp_path, monkeypatch, capfd
):
    status = run_in_process(
        monkeypatch,
        "--config-file", CONFIG, "--eval-only", "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides, "MODEL.LAMBDA_RESNET.VARIANT", "resnet",
        "MODEL.WEIGHTS", trained / "model_final.pth",
    )  # fmt: skip
    assert status == 2
    assert_one_line(capfd, ["MODEL.WEIGHTS", "model_final.pth", "conv2.weight"])


def test_weights_that_fit_nothing_are_refused(
    run_in_process, shapes_folder, tiny_overrides, tmp_path, monkeypatch, capfd
):
    torch.save({"model": {"other": torch.zeros(3)}}, tmp_path / "other.pth")
    status = run_in_process(
        monkeypatch,
        "--config-file", CONFIG, "DATASETS.COCO_FOLDER", shapes_folder,
        "OUTPUT_DIR", tmp_path / "run", *tiny_overrides, "MODEL.WEIGHTS", tmp_path / "other.pth",
    )  # fmt: skip
    assert status == 2
    assert_one_line(capfd, ["MODEL.WEIGHTS", "other.pth", "fits"])


def test_truncated_images_are_one_line_before_anything_is_trained(
    run_in_process, tiny_overrides, tmp_path, monkeypatch, capfd
):
    from lambda_det.data import generate_shapes

    folder = tmp_path / "shapes"
    generate_shapes(folder, num_train=4, num_val=1, seed=0)
    for image in (folder / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:1000])
    status = run_in_process(
        monkeypatch,
        "--config-file", CONFIG, "DATASETS.COCO_FOLDER", folder, "OUTPUT_DIR", tmp_path / "run",
        *tiny_overrides, "DATALOADER.NUM_WORKERS", 1,
    )  # fmt: skip
    assert status == 2
    assert_one_line(capfd, ["3 of the 3 image files", "train2017", "is truncated"])
    assert not (tmp_path / "run" / "metrics.json").exists()
