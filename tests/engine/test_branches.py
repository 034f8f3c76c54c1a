"""Residual branches that a training starts without, and what it did to them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.engine.branches import SHORT, branch_figures, log_branches, warn_of_closed_branches


def network(**arguments):
    return build_lambda_resnet(26, "lambda", scope=5, **arguments)


def test_short_training_of_closed_branches_is_warned_of(log):
    warn_of_closed_branches(network(), 500, "SOLVER.MAX_ITER gives")
    (record,) = log.records
    assert record.levelname == "WARNING"
    assert "8 of 8 residual branches start at 0" in record.message
    assert "SOLVER.MAX_ITER gives 500 iterations" in record.message
    assert "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL False" in record.message


def test_branches_that_partial_weights_have_closed(log):
    model = network(zero_init_residual=False)
    nn.init.zeros_(model.res5[0].conv3.norm.weight)
    warn_of_closed_branches(model, SHORT - 1, "PRETRAIN.EPOCHS gives")
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
    warn_of_closed_branches(network(**arguments), iterations, "")
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
    log_branches(model)
    assert "res3 0.250" in log.text and "res5 2.000" in log.text
    log.clear()
    log_branches(nn.Linear(2, 2))
    assert not log.records


def test_run_from_zero_is_warned_once_and_measured_at_its_end(make_trainer, tmp_path, log):
    words = "MODEL.BACKBONE.NAME build_lambda_resnet_fpn_backbone MODEL.LAMBDA_RESNET.DEPTH 26"
    words = [*words.split(), "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL", "True"]
    trainer = make_trainer(tmp_path / "run", *words, "SOLVER.MAX_ITER", 2)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert log.text.count("8 of 8 residual branches start at 0") == 1
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert 0 < lines[-1]["last_norm/res2"] < 0.1
    log.clear()
    again = make_trainer(tmp_path / "run", *words, "SOLVER.MAX_ITER", 3)
    again.resume_or_load(resume=True)
    again.train()
    assert "start at 0" not in log.text
    assert log.text.count("mean |last norm|") == 1
