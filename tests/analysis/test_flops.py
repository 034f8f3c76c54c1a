"""FLOPs of layers and networks, counted on the meta device and with fvcore."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import flop_count_table
from torch import nn

from lambda_det.analysis import LambdaFlopCountAnalysis, count_flops
from lambda_det.analysis.flops import total_flops
from lambda_det.backbone import build_lambda_resnet
from lambda_det.layers import LambdaLayer
from lambda_det.layers.attention import KINDS

OPTIONS = [
    {},
    {"intra_depth": 4, "num_heads": 2, "query_depth": 3, "scope": 5},
    {"scope": "global", "max_size": (40, 40)},
    {"content": False, "position_bias": True},
    {"position": False, "key_normalizer": None},
    {"backend": "reference", "scope": 3},
]


def sums(layer: LambdaLayer, height: int, width: int) -> dict[str, int]:
    """Of the paper's section 3, by its letters."""
    k, h, u = layer.query_depth, layer.num_heads, layer.intra_depth
    v, n = layer.out_channels // h, height * width
    counts = {}
    if layer.content:
        counts["content_lambda"] = n * u * k * v + n * h * k * v
    if layer.position:
        m = n if layer.scope == "global" else layer.scope**2
        counts["position_lambda"] = n * m * u * k * v + n * h * k * v
    if layer.position_bias is not None:
        counts["position_bias"] = n * h * k
    return counts


def closed_formula(layer: LambdaLayer, height: int, width: int) -> int:
    weights = sum(m.weight.numel() for m in layer.children() if isinstance(m, nn.Conv2d))
    return height * width * weights + sum(sums(layer, height, width).values())


@pytest.mark.parametrize("size", [(7, 5), (33, 31)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layer_at_odd_sizes(options: dict, size: tuple[int, int]) -> None:
    layer = LambdaLayer(24, **options).eval()
    expected = 2 * closed_formula(layer, *size)  # two images
    x = torch.zeros(2, 24, *size)
    assert total_flops(count_flops(layer, x)) == expected
    assert total_flops(count_flops(layer.to("meta"), x.to("meta"))) == expected
    if options.get("backend") != "reference":  # hundreds of operators to trace
        layer = LambdaLayer(24, **options).eval()
        assert LambdaFlopCountAnalysis(layer, x).total() == expected


def attention(layer: nn.Module, n: int, m: int, offsets: int) -> int:
    """Multiply-adds of n positions that attend to m each, with embeddings of some offsets."""
    queries = layer.num_heads * layer.query_depth
    return n * (m * (queries + layer.value_channels) + offsets * queries)


RIVALS = {
    "global_attention": lambda layer, y, x: attention(layer, y * x, y * x, y + x),
    "axial_attention": lambda layer, y, x: (
        attention(layer.along_columns, y * x, y, y) + attention(layer.along_rows, y * x, x, x)
    ),
    "local_attention": lambda layer, y, x: attention(layer, y * x, 49, 7),
    "linear_attention": lambda layer, y, x: 2 * y * x * layer.query_depth * 32,
    "double_attention": lambda layer, y, x: 2 * y * x * 16 * 16,
    "attention_augmented": lambda layer, y, x: attention(layer, y * x, y * x, y + x),
    "depthwise": lambda layer, y, x: 0,
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", RIVALS)
def test_other_kinds_of_layers(kind: str, device: str) -> None:
    assert {*RIVALS, "lambda"} == {*KINDS}
    layer, size = KINDS[kind](32).eval().to(device), (9, 13)
    weights = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Conv2d))
    expected = 2 * (9 * 13 * weights + RIVALS[kind](layer, *size))
    net, x = nn.Sequential(nn.ReLU(), layer), torch.zeros(2, 32, *size, device=device)
    assert total_flops(count_flops(net, x)) == expected
    if device == "cpu":
        assert LambdaFlopCountAnalysis(net, x).total() == expected


def test_a_layer_that_runs_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LambdaLayer(24, scope=5)

        def forward(self, x):
            return self.layer(x), self.layer(x[..., ::2, ::2])

    net, x = Twice().eval(), torch.zeros(1, 24, 9, 7)
    expected = closed_formula(net.layer, 9, 7) + closed_formula(net.layer, 5, 4)
    assert total_flops(count_flops(net, x)) == expected
    assert LambdaFlopCountAnalysis(net, x).total() == expected


def test_a_module_outside_of_the_tree_does_not_replace_the_total() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = nn.Conv2d(3, 8, 3)
            self.hidden = [nn.Conv2d(8, 8, 1)]

        def forward(self, x):
            return self.hidden[0](self.seen(x))

    counts = count_flops(Hidden().eval(), torch.zeros(1, 3, 9, 7))
    assert total_flops(counts) == 7 * 5 * (3 * 8 * 9 + 8 * 8)
    assert total_flops(counts, "seen") == 7 * 5 * 3 * 8 * 9


def test_sum_is_named_and_counted_in_every_module_around_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Sequential(nn.Conv2d(3, 8, 3), LambdaLayer(8, scope=3))

        def forward(self, x):
            return self.stage(x).mean()

    net = Net().eval()
    x = torch.zeros(1, 3, 9, 7)
    conv = 3 * 8 * 9 * 7 * 5
    layer = closed_formula(net.stage[1], 7, 5)
    fvcore = LambdaFlopCountAnalysis(net, x)
    for counts in (count_flops(net, x), fvcore.by_module_and_operator()):
        assert total_flops(counts, "stage.0") == conv
        assert total_flops(counts, "stage.1") == layer
        assert total_flops(counts, "stage") == total_flops(counts, "") == conv + layer
        formula = sums(net.stage[1], 7, 5)
        for module in ("", "stage", "stage.1"):
            assert {name: counts[module][name] for name in formula} == formula
    assert "1.value_norm.weight" in flop_count_table(fvcore)  # it leaves the wrapper's name out
    assert not fvcore.unsupported_ops()


@pytest.mark.parametrize("variant", ["lambda", "se"])
def test_both_counters_agree_on_a_network(variant: str) -> None:
    with torch.device("meta"):
        meta = build_lambda_resnet(50, variant, num_classes=10, out_features=("linear",)).eval()
    by_module = count_flops(meta, torch.empty(1, 3, 97, 131, device="meta"))
    real = build_lambda_resnet(50, variant, num_classes=10, out_features=("linear",)).eval()
    fvcore = LambdaFlopCountAnalysis(real, torch.zeros(1, 3, 97, 131)).by_module()
    for name in ("", "stem", "res2", "res4.0", "res5.0", "res5.2", "linear"):
        assert total_flops(by_module, name) == fvcore[name] > 0, name


def test_hooks_are_gone_afterwards() -> None:
    layer = LambdaLayer(8).eval()
    count_flops(layer, torch.zeros(1, 8, 3, 3))
    LambdaFlopCountAnalysis(layer, torch.zeros(1, 8, 3, 3)).total()
    for module in layer.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks


def test_known_counts() -> None:
    """ResNet-50's 4.09 GMAC (everybody's); the all-lambda one's 6.58 (d-li14's README: 6.576)."""
    x = torch.empty(1, 3, 224, 224, device="meta")
    for stages, count in (
        ({}, 4.09),
        (dict.fromkeys(("res2", "res3", "res4", "res5"), "all"), 6.58),
    ):
        with torch.device("meta"):
            model = build_lambda_resnet(
                50, "resnet", stem="v1", lambda_blocks=stages, num_classes=1000,
                out_features=("linear",),
            ).eval()  # fmt: skip
        assert round(total_flops(count_flops(model, x)) / 1e9, 2) == count
