"""Every norm that a config can name reaches every place of the backbone that has one."""

from __future__ import annotations

import pytest
import torch
from backbone_helpers import build_on_meta, image
from detectron2.layers import FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import nn

from lambda_det.backbone import build_lambda_resnet

NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": nn.GroupNorm,
}


def norms_of(block: nn.Module) -> dict[str, nn.Module]:
    layer = block.lambda_layer
    return {
        "conv1": block.conv1.norm,
        "conv3": block.conv3.norm,
        "shortcut": block.shortcut.norm,
        "lambda_norm": block.lambda_norm,
        "query_norm": layer.query_norm,
        "value_norm": layer.value_norm,
    }


@pytest.mark.parametrize("stem", ["rs", "v1"])
@pytest.mark.parametrize("norm", NORMS)
def test_norm_reaches_every_place(norm: str, stem: str) -> None:
    backbone = build_on_meta(50, "lambda", norm=norm, stem=stem, lambda_blocks={"res2": "all"})
    for block in (backbone.res2[0], backbone.res5[0]):
        for place, module in norms_of(block).items():
            assert type(module).__name__ == NORMS[norm].__name__, place
            assert isinstance(module, NORMS[norm]), place
    assert isinstance(backbone.res3[0].conv2.norm, NORMS[norm])
    convs = [m for m in backbone.stem.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(conv.norm, NORMS[norm]) for conv in convs)


def test_no_norm() -> None:
    backbone = build_on_meta(50, "lambda", norm="")
    assert not any("norm" in name for name in backbone.state_dict())
    assert all("bias" not in name or ".se." in name for name in backbone.state_dict())


@pytest.mark.parametrize(
    ("norm_qv", "kind"), [("GN", nn.GroupNorm), ("FrozenBN", FrozenBatchNorm2d)]
)
def test_norm_of_queries_and_values_on_their_own(norm_qv: str, kind: type) -> None:
    norms = norms_of(build_on_meta(50, "lambda", lambda_norm_qv=norm_qv).res5[0])
    assert isinstance(norms.pop("query_norm"), kind)
    assert isinstance(norms.pop("value_norm"), kind)
    assert all(isinstance(module, nn.BatchNorm2d) for module in norms.values())


@pytest.mark.parametrize("norm", [*NORMS, ""])
def test_training_on_a_cpu_in_one_process(norm: str) -> None:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(
        50,
        "lambda",
        norm=norm,
        scope=5,
        lambda_blocks={"res2": [2], "res3": [1]},
        out_features=("res3",),
    )
    output = backbone.train()(image(2, 3, 33, 41))["res3"]
    assert output.shape == (2, 512, 5, 6) and output.isfinite().all()
    output.square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
