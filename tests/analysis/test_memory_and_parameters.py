"""Activation memory, parameters by part, latency."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lambda_det.analysis.latency import measure_latency
from lambda_det.analysis.memory import activation_bytes
from lambda_det.analysis.parameters import count_parameters
from lambda_det.backbone import build_lambda_resnet
from lambda_det.layers.attention import KINDS


def test_bytes_of_a_small_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.res2 = nn.Conv2d(3, 4, 3, padding=1)
            self.res3 = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1))

        def forward(self, x):
            return self.res3(self.res2(x))

    # Kept: the image (3 channels) for conv 1; the ReLU's output (4), by the ReLU and by conv 2.
    for device in ("meta", "cpu"):
        kept = activation_bytes(Net().to(device), torch.zeros(2, 3, 5, 7, device=device))
        assert kept == {"res2": 2 * 3 * 5 * 7 * 4, "res3": 2 * 4 * 5 * 7 * 4}


def test_parameters_and_buffers_are_not_activations() -> None:
    norm = nn.BatchNorm2d(4).eval()
    x = torch.zeros(1, 4, 3, 3, requires_grad=True)
    assert activation_bytes(norm, x).total() <= 4 * x.numel()
    double = nn.Linear(4, 4).double()
    # Weight and input: only the input counts.
    assert activation_bytes(double, torch.zeros(3, 4).double()).total() == 8 * 12


@pytest.mark.parametrize("variant", ["lambda", "se"])
def test_meta_device_keeps_what_the_cpu_keeps(variant: str) -> None:
    kept = {}
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = build_lambda_resnet(50, variant).train()
            kept[device] = activation_bytes(model, torch.zeros(2, 3, 65, 97), prefix="backbone")
    assert kept["meta"] == kept["cpu"]
    assert list(kept["cpu"]) == ["stem", "res2", "res3", "res4", "res5"]


@pytest.mark.parametrize("kind", KINDS)
def test_meta_device_keeps_what_the_cpu_keeps_of_every_kind(kind: str) -> None:
    kept = []
    for device in ("meta", "cpu"):
        layer = KINDS[kind](32).to(device).train()
        x = torch.zeros(2, 32, 9, 13, device=device, requires_grad=True)
        kept.append(activation_bytes(layer, x).total())
    assert kept[0] == kept[1]


def test_frozen_stages_keep_nothing() -> None:
    with torch.device("meta"):
        model = build_lambda_resnet(50, "lambda", freeze_at=2).train()
        kept = activation_bytes(model, torch.zeros(1, 3, 64, 64))
    assert set(kept) == {"res3", "res4", "res5"}


def test_parameters_by_part() -> None:
    with torch.device("meta"):
        model = build_lambda_resnet(50, "lambda", num_classes=7, shared_embeddings=True)
    counts = count_parameters(model)
    assert counts.total() == sum(p.numel() for p in model.parameters())
    assert counts["classifier"] == 2048 * 7 + 7
    assert counts["res5"] == sum(p.numel() for p in model.res5.parameters())
    assert set(counts) == {"stem", "res2", "res3", "res4", "res5", "classifier"}


def test_latency() -> None:
    calls = []

    class Slow(nn.Module):
        def forward(self, x):
            calls.append(self.training)
            return x

    model = Slow().train()
    result = measure_latency(model, torch.zeros(1), min_runs=4, seconds=0)
    assert result["runs"] == 4 and calls == [False] * 5 and model.training
    assert 0 <= result["min"] <= result["median"] <= result["max"]
