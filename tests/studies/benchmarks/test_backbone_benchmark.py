"""The benchmark of backbones: what it compares, in which order, and what it makes of the times."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.layers import LambdaLayer
from studies.benchmarks import backbone_benchmark
from studies.benchmarks.backbone_benchmark import Contestant, Protocol, benchmark_backbones
from studies.benchmarks.backbone_forms import PeerLayer, build_model
from studies.benchmarks.backbone_report import plot, text_tables
from studies.benchmarks.layer_forms import PEER_FORMS


@pytest.mark.parametrize("form", ["conv2d form", "conv3d form"])
@pytest.mark.parametrize("u", [1, 2])
def test_peers_layer_is_the_same_function(form: str, u: int) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(8, query_depth=3, scope=5, intra_depth=u).double()
    x = torch.randn(2, 8, 4, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 8, 4, 7, dtype=torch.float64)
    leaves = [x, *layer.parameters()]
    found = [
        [output, *torch.autograd.grad(output, leaves, weight)]
        for output in (PeerLayer(layer, PEER_FORMS[form])(x), layer(x))
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_models_differ_in_their_lambda_layers_only() -> None:
    ours, theirs = (build_model(name, 26, seed=3).eval() for name in ("lambda", "lambda-conv2d"))
    kinds = [type(m) for m in theirs.modules() if isinstance(m, LambdaLayer | PeerLayer)]
    assert kinds.count(PeerLayer) == kinds.count(LambdaLayer) > 0
    blocks = [m for m in ours.modules() if isinstance(m, LambdaBottleneck)]
    assert all(bool((block.conv3.norm.weight > 0).all()) for block in blocks)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features, wanted = ours(x), theirs(x)
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for name, feature in features.items():
        assert feature.std() > 0
        torch.testing.assert_close(wanted[name], feature, rtol=1e-3, atol=1e-4)


@pytest.fixture
def two_models(monkeypatch):
    """Replace the backbones by single convolutions whose times are given."""
    times = {
        # memory, then turns; the baseline's first
        "resnet": {"train": [10.0, 10, 20, 10, 10], "inference": [4.0, 4, 4, 4, 4]},
        "lambda": {"train": [20.0, 20, 20, 30, 10], "inference": [4.0, 6, 6, 6, 6]},
        "lambda-conv2d": {"train": [40.0, 40, 30], "inference": [8.0, 8, 8]},
    }
    order: list[tuple[str, str]] = []

    class Layer(nn.Conv2d):
        def forward(self, x):
            return {"p2": super().forward(x)}

    def milliseconds(self: Contestant, step: str) -> float:
        order.append((self.row["model"], step))
        return times[self.row["model"]][step].pop(0)

    monkeypatch.setattr(backbone_benchmark, "build_model", lambda *_args: Layer(3, 2, 1))
    monkeypatch.setattr(Contestant, "milliseconds", milliseconds)
    return order


PROTOCOL = Protocol(size=(32, 64), repetitions=4, models=("lambda", "lambda-conv2d"))


def test_models_take_turns_and_slow_ones_fewer(two_models) -> None:
    rows = benchmark_backbones([101], PROTOCOL)
    base, ours, peer = rows
    assert [row["label"] for row in rows] == ["R-101", "λ-101", "λ-101, conv2d form"]
    names = ["resnet", "lambda", "lambda-conv2d"]
    all_three = [(name, step) for step in ("train", "inference") for name in names]
    two = [turn for turn in all_three if turn[0] != "lambda-conv2d"]
    turned = [(name, step) for step in ("train", "inference") for name in names[1::-1]]
    assert two_models[6:] == [*all_three, *turned, *two, *all_three]
    assert (base["train_runs"], peer["train_runs"], peer["inference_runs"]) == (4, 2, 2)
    assert base["train_ms"] == 10 and ours["train_ms"] == 20
    # Turn by turn: 20/10, 20/20, 30/10, 10/10 and 40/10, 30/10.
    assert (ours["train_ratio_q1"], ours["train_ratio"], ours["train_ratio_q3"]) == (1, 1.5, 2.25)
    assert peer["train_ratio"] == 3.5 and base["train_ratio"] == 1
    assert ours["inference_images_per_s"] == pytest.approx(1000 / 6, abs=1e-3)
    # The input and nothing else: a convolution's weight is a parameter.
    assert base["saved_mib"] == pytest.approx(4 * 3 * 32 * 64 / 2**20, abs=0.1)


def test_a_model_without_a_training_is_in_tables_and_figure(two_models, tmp_path) -> None:
    rows = benchmark_backbones([101], PROTOCOL)
    rows[2] = {key: value for key, value in rows[2].items() if not key.startswith("train")}
    rows[2]["note"] = "out of memory"
    assert "out of memory" in text_tables(rows)
    plot(rows, str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_fails_is_a_note(monkeypatch) -> None:
    class Fails(nn.Module):
        def forward(self, _x):
            raise RuntimeError("does not fit\nat all")

    monkeypatch.setattr(backbone_benchmark, "build_model", lambda *_args: Fails())
    rows = benchmark_backbones([101], PROTOCOL)
    assert [row["note"] for row in rows] == ["does not fit"] * 3
    assert "does not fit" in text_tables(rows)
