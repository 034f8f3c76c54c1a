"""Residual branches that a training starts without, and what it did to them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.engine.branches import SHORT, BranchReport, branch_figures


def network(**arguments):
    return build_lambda_resnet(26, "lambda", scope=5, **arguments)


def report(model: nn.Module, iterations: int, iteration: int | None = None) -> EventStorage:
    """Before the training, or after an iteration."""
    hook = BranchReport()
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(
            model=model, max_iter=iterations, iter=iteration, storage=storage
        )
        hook.before_train() if iteration is None else hook.after_step()
    return storage


def test_short_training_of_closed_branches_is_warned_of(log):
    report(network(), 500)
    (record,) = log.records
    assert record.levelname == "WARNING"
    assert "8 of 8 residual branches start at 0" in record.message
    assert "the run has 500 iterations" in record.message
    assert "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL False" in record.message


def test_branches_that_partial_weights_have_closed(log):
    model = network(zero_init_residual=False)
    nn.init.zeros_(model.res5[0].conv3.norm.weight)
    report(model, SHORT - 1)
    (record,) = log.records
    assert "1 of 8" in record.message and "PARTIAL_INIT_AS_IDENTITY False" in record.message


@pytest.mark.parametrize(
    "arguments, iterations",
    [
        ({}, SHORT),
        ({"zero_init_residual": False}, 5),
        ({"zero_init_residual": False, "idle_stages": ["res4", "res5"]}, 5),
        ({"norm": ""}, 5),
    ],
)
def test_nothing_to_warn_of(arguments, iterations, log):
    report(network(**arguments), iterations)
    assert not log.records


def test_figures_are_those_of_the_weights(log):
    model = network(zero_init_residual=False)
    for block in model.res3:
        nn.init.constant_(block.conv3.norm.weight, -0.25)
    for block in model.res5:
        nn.init.constant_(block.lambda_layer.embedding, -2.0)
    figures = branch_figures(nn.Sequential(model))
    assert figures["last_norm"] == {"res2": 1, "res3": 0.25, "res4": 1, "res5": 1}
    assert list(figures["embedding_rms"]) == ["res4", "res5"]
    embedding = model.res4[1].lambda_layer.embedding.detach().double()
    assert figures["embedding_rms"]["res4"] == pytest.approx(
        torch.linalg.vector_norm(embedding).item() / embedding.numel() ** 0.5, rel=1e-6
    )
    assert figures["embedding_rms"]["res5"] == 2
    assert not report(model, 9, 7).histories()
    assert report(model, 9, 8).latest()["last_norm/res3"] == (0.25, 0)
    assert "res3 0.250" in log.text and "res5 2.000" in log.text
    log.clear()
    report(nn.Linear(2, 2), 9, 8)
    assert not log.records


@pytest.mark.slow
def test_run_from_zero_is_warned_once_and_measured_at_its_end(make_training, tmp_path, log):
    words = "MODEL.BACKBONE.NAME build_lambda_resnet_fpn_backbone MODEL.LAMBDA_RESNET.DEPTH 26"
    words = [*words.split(), "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL", "True"]
    make_training(tmp_path / "run", *words, "SOLVER.MAX_ITER", 2).train()
    assert log.text.count("8 of 8 residual branches start at 0") == 1
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert 0 < lines[-1]["last_norm/res2"] < 0.1
    log.clear()
    make_training(tmp_path / "run", *words, "SOLVER.MAX_ITER", 3).train(resume=True)
    assert "start at 0" not in log.text
    assert log.text.count("mean |last norm|") == 1
