"""The comparison of pretrained and random weights: its steps, its rows, its table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import sys
from pathlib import Path

import pytest
import torch

from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError
from lambda_det.records import make_record
from studies.evidence.pretrain_gain import (
    GainExperiment,
    Step,
    backbone_coverage,
    gain_rows,
    run_steps,
)
from studies.tables import rows_table

DETECTION = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


def experiment(project: Path, output: Path) -> GainExperiment:
    return GainExperiment(
        output=str(output),
        dataset_command=["make"],
        pretrain_command=["pretrain"],
        train_command=["train"],
        pretrain_config="p.yaml",
        detection_config=str(project / DETECTION),
        detection_keys=["SOLVER.MAX_ITER", "200", "MODEL.LAMBDA_RESNET.DEPTH", "26"],
        seeds=(1, 2, 3),
    )


def pairs(command: list[str]) -> dict[str, str]:
    return dict(itertools.pairwise(command))


def test_runs_of_a_seed_differ_in_their_weights_alone(project, tmp_path):
    steps = experiment(project, tmp_path).steps()
    assert len(steps) == 3 + 6
    assert pairs(steps[2].command)["--data"] == pairs(steps[1].command)["--output"]
    for seed, (one, other) in enumerate(zip(steps[3::2], steps[4::2], strict=True), start=1):
        first, second = pairs(one.command), pairs(other.command)
        assert first["MODEL.WEIGHTS"] == steps[2].done and second["MODEL.WEIGHTS"] == ""
        assert first["SEED"] == second["SEED"] == str(seed)
        changed = [a for a, b in zip(one.command, other.command, strict=True) if a != b]
        assert len(changed) == 2  # the weights and the output folder
    assert len({step.done for step in steps}) == len({step.log for step in steps}) == 9


def test_steps_are_taken_up_where_they_stopped(tmp_path):
    def step(name: str, code: str) -> Step:
        command = [sys.executable, "-c", code.format(done=str(tmp_path / name))]
        return Step(name, command, str(tmp_path / name), str(tmp_path / "logs" / f"{name}.log"))

    good = step("first", "open({done!r}, 'x').write('x')")  # 'x' fails if the file exists
    bad = step("second", "print('why it failed'); raise SystemExit(3)")
    lines: list[str] = []
    with pytest.raises(InputError, match=r"second: ended with status 3, see .*second.log"):
        run_steps([good, bad], lines.append)
    assert "why it failed" in (tmp_path / "logs" / "second.log").read_text()
    mended = step("second", "open({done!r}, 'x').write('x')")
    run_steps([good, mended], lines.append)
    assert lines[-2:] == ["[1/2] first: is done already", "[2/2] second ..."]
    with pytest.raises(InputError, match=r"status 0"):  # said nothing, left nothing
        run_steps([step("third", "pass")], lines.append)


def test_what_was_made_with_other_arguments_is_refused(project, tmp_path):
    def steps(**changes: object) -> list[Step]:
        changed = dataclasses.replace(experiment(project, tmp_path), **changes)
        code = "import os, sys; os.makedirs(sys.argv[1])"
        return [
            dataclasses.replace(step, command=[sys.executable, "-c", code, step.done])
            for step in changed.steps()
        ]

    lines: list[str] = []
    run_steps(steps(), lines.append)
    run_steps(steps(), lines.append)
    assert sum(line.endswith("is done already") for line in lines) == 9
    for changes, words in (
        ({"num_images": (8, 4)}, "dataset for pretraining .*'1600'.* not with .*'8'"),
        ({"pretrain_keys": ["SEED", "4"]}, "the existing pretraining .* not with .*'SEED'"),
        ({"detection_keys": ["SOLVER.MAX_ITER", "9"]}, "detector from .*'200'.* not with .*'9'"),
    ):
        with pytest.raises(InputError, match=words):
            run_steps(steps(**changes), lines.append)
    assert len(lines) == 18  # nothing was begun
    # Output from before there were notes counts as done.
    for step in steps():
        Path(step.note).unlink()
    run_steps(steps(num_images=(8, 4)), lines.append)
    assert all(line.endswith("is done already") for line in lines[18:]) and len(lines) == 27


def write_run(folder: Path, losses: dict[int, float], ap: float) -> None:
    (folder / "inference").mkdir(parents=True)
    lines = [{"iteration": at - 1, "total_loss": loss} for at, loss in losses.items()]
    # An attempt that was killed, whose lines come first.
    lines = [{"iteration": 19, "total_loss": 99.0}, *lines, {"iteration": 200, "bbox/AP": ap}]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    metrics = {task: {"AP": ap, "AP50": ap + 10} for task in ("bbox", "segm")}
    (folder / "inference" / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def finished(project, tmp_path) -> GainExperiment:
    gain = experiment(project, tmp_path)
    for offset, name in ((0.0, "pretrained"), (1.0, "random")):
        for seed in gain.seeds:
            losses = {at: 4 + offset + 0.1 * seed - at / 100 for at in range(20, 201, 20)}
            write_run(tmp_path / f"{name}_seed{seed}", losses, 30 - 10 * offset + seed)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "metrics.json").write_text(
        '{"iteration": 9, "val_top1": 50.0, "ema_top1": 60.0}\n{"iteration": 10, "loss": 1.0}\n'
    )
    return gain


@pytest.fixture
def weights(finished) -> dict[str, torch.Tensor]:
    """What a pretraining leaves: the weights, which are in its file too."""
    model = build_lambda_resnet(26, "lambda", num_classes=10)
    content = {"model": model.state_dict(), "matching_heuristics": True}
    torch.save(content, finished.weights)
    return {name: value for name, value in model.named_parameters() if "linear" not in name}


def test_rows_and_table(finished, weights):
    rows = gain_rows(finished)
    pretrained, random = rows
    assert pretrained["initialisation"] == "pretrained" and random["initialisation"] == "random"
    assert pretrained["iterations"] == 200 and pretrained["runs"] == 3
    assert [name for name in random if name.startswith("loss")] == [
        "loss_at_40", "loss_at_100", "loss_at_200",
    ]  # fmt: skip
    assert random["loss_at_40"]["values"] == pytest.approx([4.7, 4.8, 4.9])
    assert pretrained["box_ap"]["mean"] == pytest.approx(32)
    assert random["mask_ap50"]["sd"] == pytest.approx(statistics.stdev([31, 32, 33]))
    assert pretrained["backbone_coverage_percent"] == 100
    assert pretrained["pretraining_top1_percent"] == 60
    table = rows_table(make_record("python x", rows, seeds=[1, 2, 3]))
    assert "| pretrained | 200 | 3 |" in table and "32.00 ± 1.00" in table
    assert table.splitlines()[3].endswith("| – | – |")  # known of the pretrained row only


def test_a_detector_that_finds_nothing_has_ap_0(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("studies.evidence.pretrain_gain.backbone_coverage", lambda _: 100.0)
    nothing = {task: {"AP": None, "AP50": None} for task in ("bbox", "segm")}
    path = tmp_path / "random_seed2" / "inference" / "metrics.json"
    path.write_text(json.dumps(nothing))
    assert gain_rows(finished)[1]["box_ap"]["values"] == [21, 0, 23]


def test_weights_that_leave_the_backbone_random_are_refused(finished, weights):
    content = torch.load(finished.weights, weights_only=True)
    del content["model"]["res5.0.conv1.weight"]
    torch.save(content, finished.weights)
    share = 1 - weights["res5.0.conv1.weight"].numel() / sum(v.numel() for v in weights.values())
    percent = math.floor(1000 * share) / 10
    with pytest.raises(InputError, match=rf"contains {percent} % of the backbone"):
        backbone_coverage(finished)


def test_a_missing_run_is_named(finished, tmp_path):
    (tmp_path / "random_seed2" / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"random_seed2.*metrics.json.*cannot be read"):
        gain_rows(finished)
