"""The bare backbone on a padded batch: every image has the features that it has alone."""

from __future__ import annotations

import copy

import pytest
import torch
from backbone_helpers import STRIDES, feature_size, image, randomise
from torch import Tensor, nn

from lambda_det.backbone import attach_image_sizes, build_lambda_resnet
from lambda_det.backbone.padding import padding_mask

CANVAS = (96, 128)
SIZES = [(77, 61), (50, 101), (33, 128)]  # odd at every stride
SMALL = {"out_features": ("res2",), "lambda_blocks": {"res2": [2]}, "scope": 5}


def padded(sizes: list[tuple[int, int]] = SIZES, canvas: tuple[int, int] = CANVAS) -> Tensor:
    batch = torch.zeros(len(sizes), 3, *canvas, dtype=torch.float64)
    for n, (height, width) in enumerate(sizes):
        batch[n, :, :height, :width] = image(3, height, width, seed=n).double()
    return attach_image_sizes(batch, sizes)


def alone(batch: Tensor, number: int) -> Tensor:
    height, width = SIZES[number]
    return batch[number : number + 1, :, :height, :width].clone()


def build(variant: str = "lambda", **arguments) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(26, variant, mask_padding=True, **arguments)
    randomise(backbone)
    return backbone.double().eval()


def without_mask(backbone: nn.Module) -> nn.Module:
    other = copy.deepcopy(backbone)
    other.mask_padding = False
    return other


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32, 64])
def test_an_image_has_as_many_rows_as_alone(stride: int) -> None:
    batch = padded()
    mask = padding_mask(batch, stride)
    assert mask.shape == (3, *feature_size(*CANVAS, stride))
    for n, size in enumerate(SIZES):
        height, width = feature_size(*size, stride)
        expected = torch.ones(mask.shape[1:], dtype=torch.bool)
        expected[:height, :width] = False
        assert torch.equal(mask[n], expected)
    assert torch.equal(mask[:, ::2, ::2], padding_mask(batch, 2 * stride))


def test_images_that_fill_the_batch_need_no_mask() -> None:
    assert padding_mask(padded([CANVAS, CANVAS]), 4) is None


@pytest.mark.parametrize(
    "sizes", [[(97, 128)] * 3, [(96, 129)] * 3, [(50, 50)] * 2, [(50, 50)] * 4, []], ids=str
)
def test_sizes_that_do_not_fit_are_not_noted(sizes: list[tuple[int, int]]) -> None:
    batch = torch.zeros(3, 3, *CANVAS)
    assert attach_image_sizes(batch, sizes) is batch
    assert padding_mask(batch, 4) is None


@pytest.mark.parametrize("sizes", [[CANVAS] * 3, [(97, 128)] * 3], ids=str)
def test_sizes_of_an_earlier_batch_in_the_same_memory_are_forgotten(sizes: list) -> None:
    batch = padded()
    assert padding_mask(attach_image_sizes(batch, sizes), 4) is None
    attach_image_sizes(batch, SIZES)
    assert torch.equal(padding_mask(batch, 4), padding_mask(padded(), 4))


def test_sizes_belong_to_their_tensor_alone() -> None:
    backbone, batch = build(**SMALL), padded()
    masked = backbone(batch)["res2"]
    plain = without_mask(backbone)(batch)["res2"]
    assert not torch.allclose(masked, plain)
    for other in (batch.clone(), batch + 0, batch[:]):
        assert torch.equal(backbone(other)["res2"], plain)
    assert torch.equal(backbone(batch)["res2"], masked)


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("lambda", {}),
        ("resnet", {}),
        ("resnet", {"stem": "v1"}),
        ("resnet", {"stem": "tiered", "norm": "FrozenBN", "stride_in_1x1": True}),
        ("se", {"stem": "v1", "norm": "FrozenBN", "stride_in_1x1": True}),
        ("lambda_full", {"stem": "tiered", "activation": "silu", "lambda_pool": 2, "norm": ""}),
        ("lambda", {"stem": "v1", "scope": "global", "max_size": CANVAS, "position_bias": True}),
    ],
    ids=str,
)
@torch.no_grad()
def test_features_equal_those_of_the_image_alone(variant: str, arguments: dict) -> None:
    backbone, batch = build(variant, **arguments), padded()
    features = backbone(batch)
    wrong = without_mask(backbone)(batch)
    for n, size in enumerate(SIZES):
        expected = backbone(alone(batch, n))
        for name, feature in expected.items():
            height, width = feature_size(*size, STRIDES[name])
            ours, others = (f[name][n : n + 1, :, :height, :width] for f in (features, wrong))
            torch.testing.assert_close(ours, feature, rtol=1e-9, atol=1e-9)
            assert (others - feature).abs().max() > 1e-3 * feature.abs().max()
    assert all(feature.isfinite().all() for feature in features.values())


@torch.no_grad()
def test_classifier_equals_the_image_alone() -> None:
    backbone, batch = build("se", num_classes=5, out_features=("linear",)), padded()
    expected = torch.cat([backbone(alone(batch, n))["linear"] for n in range(3)])
    torch.testing.assert_close(backbone(batch)["linear"], expected, rtol=1e-9, atol=1e-9)


def gradients(backbone: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Of a loss that reads what is image."""
    backbone.zero_grad()
    feature = backbone(batch)["res2"]
    mask = padding_mask(batch, 4)
    feature = feature if mask is None else feature * (~mask)[:, None]
    feature.square().sum().backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters()}


def test_gradients_are_the_sum_of_the_images() -> None:
    backbone, batch = build(**SMALL), padded()
    together = gradients(backbone, batch)
    single = [gradients(backbone, alone(batch, n)) for n in range(3)]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(g[name] for g in single), rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_traces_without_a_mask() -> None:
    graph = torch.jit.trace(build(**SMALL).float(), image(1, 3, 32, 64), strict=False)
    assert "conv" in str(graph.inlined_graph) and "masked_fill" not in str(graph.inlined_graph)


@pytest.mark.filterwarnings("ignore")
def test_mask_in_a_trace_holds_for_other_sizes() -> None:
    def mask(batch: Tensor, sizes: Tensor) -> Tensor:  # in a trace detectron2's sizes are tensors
        return padding_mask(attach_image_sizes(batch * 1, [sizes[0], sizes[1]]), 4)

    traced = torch.jit.trace(mask, (torch.zeros(2, 3, 64, 64), torch.tensor([[64, 64], [60, 9]])))
    sizes = [(77, 61), (50, 128)]
    expected = padding_mask(padded(sizes), 4)
    assert torch.equal(traced(torch.zeros(2, 3, *CANVAS), torch.tensor(sizes)), expected)
