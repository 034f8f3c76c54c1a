"""The bare backbone, forward and backward, on images of any size."""

from __future__ import annotations

import copy

import pytest
import torch
from backbone_helpers import CHANNELS, STRIDES, build_on_meta, feature_size, image, randomise
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet

ALL = ("stem", "res2", "res3", "res4", "res5", "linear")


@pytest.fixture(scope="module")
def lambda_50() -> nn.Module:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(50, "lambda", num_classes=7, out_features=ALL)
    randomise(backbone)
    return backbone


def assert_gradients(backbone: nn.Module, outputs: dict[str, Tensor]) -> None:
    """Every parameter gets a finite gradient that is not zero."""
    backbone.zero_grad()
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in outputs.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [(97, 131), (64, 32), (33, 70)], ids=str)
def test_sizes_channels_and_strides(lambda_50: nn.Module, size: tuple[int, int]) -> None:
    with torch.no_grad():
        outputs = lambda_50.eval()(image(2, 3, *size))
    shapes = lambda_50.output_shape()
    assert list(outputs) == list(shapes) == list(ALL)
    for name, stride in STRIDES.items():
        assert shapes[name].stride == stride and shapes[name].channels == CHANNELS[name]
        assert outputs[name].shape == (2, CHANNELS[name], *feature_size(*size, stride))
        assert outputs[name].isfinite().all()
    assert outputs["linear"].shape == (2, 7)
    assert shapes["linear"].channels == 7


def test_backward_of_lambda_50(lambda_50: nn.Module) -> None:
    assert_gradients(lambda_50, lambda_50.train()(image(2, 3, 97, 131)))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradient_is_the_slope(lambda_50: nn.Module, batch: int, training: bool) -> None:
    # One image on each GPU is common, and it is where strides of a gradient become ambiguous.
    backbone = copy.deepcopy(lambda_50).double().train(training)
    x = image(batch, 3, 65, 97).double().requires_grad_()
    weight = image(batch, 2048, 3, 4, seed=2).double()
    tensors = {"input": x, **dict(backbone.named_parameters())}
    (backbone(x)["res5"] * weight).mean().backward()
    for chosen in ("input", "res4.2.conv1", "res4.2.lambda_layer", "res5.0.lambda_layer"):
        part = [tensor for name, tensor in tensors.items() if name.startswith(chosen)]
        gradients = [tensor.grad for tensor in part]
        norm = sum(gradient.square().sum() for gradient in gradients).sqrt().item()
        ends = []
        for distance in (1e-8, -2e-8):  # along the gradient: forth, back
            with torch.no_grad():
                for tensor, gradient in zip(part, gradients, strict=True):
                    tensor += distance / norm * gradient
                ends.append((backbone(x)["res5"] * weight).mean().item())
        assert (ends[0] - ends[1]) / 2e-8 == pytest.approx(norm, rel=1e-3), chosen


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_plain_variant_is_detectron2s_resnet(stride_in_1x1: bool) -> None:
    torch.manual_seed(0)
    theirs = ResNet(
        BasicStem(3, 64, "BN"),
        ResNet.make_default_stages(50, stride_in_1x1=stride_in_1x1, norm="BN"),
        out_features=list(ALL[:5]),
    )
    randomise(theirs)
    ours = build_lambda_resnet(
        50, "resnet", stem="v1", stride_in_1x1=stride_in_1x1, out_features=ALL[:5]
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = image(2, 3, 65, 97)
    for training in (False, True):
        with torch.no_grad():
            expected, outputs = theirs.train(training)(x), ours.train(training)(x)
        assert list(outputs) == list(expected)
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-6, atol=1e-6)
    for name, tensor in theirs.state_dict().items():  # running statistics moved alike
        torch.testing.assert_close(ours.state_dict()[name], tensor, msg=name)
    assert ours.output_shape() == theirs.output_shape()


@pytest.mark.parametrize(
    ("out_features", "kept"),
    [
        (("res2",), {"stem", "res2"}),
        (("res4", "res2"), {"stem", "res2", "res3", "res4"}),
        (("stem",), {"stem"}),
        (["stem", "res3"], {"stem", "res2", "res3"}),
        (("res3", "res4", "res5"), {"stem", "res2", "res3", "res4", "res5"}),
    ],
    ids=lambda value: "-".join(sorted(value)),  # a set's text differs from process to process
)
def test_unused_stages_are_dropped(out_features, kept: set[str]) -> None:
    backbone = build_on_meta(50, "lambda", out_features=out_features)
    assert {name.split(".")[0] for name in backbone.state_dict()} == kept
    assert set(backbone.output_shape()) == set(out_features)


def test_classifier_keeps_all_stages() -> None:
    backbone = build_on_meta(50, "lambda", out_features=("linear",), num_classes=11)
    first_parts = {name.split(".")[0] for name in backbone.state_dict()}
    assert first_parts == {"stem", "res2", "res3", "res4", "res5", "linear"}
    assert backbone.linear.weight.shape == (11, 2048) and backbone.linear.bias.shape == (11,)
    assert backbone.output_shape()["linear"].channels == 11
    backbone = build_on_meta(50, "lambda", out_features=("res3",), num_classes=11)
    assert {name.split(".")[0] for name in backbone.state_dict()} == first_parts
    assert set(backbone.output_shape()) == {"res3"}


def test_logits(lambda_50: nn.Module) -> None:
    with torch.no_grad():
        outputs = lambda_50.eval()(image(2, 3, 64, 96))
    pooled = outputs["res5"].mean((2, 3))
    expected = pooled @ lambda_50.linear.weight.T + lambda_50.linear.bias
    torch.testing.assert_close(outputs["linear"], expected)


def test_only_what_was_asked_for_is_returned(lambda_50: nn.Module) -> None:
    backbone = build_lambda_resnet(50, "lambda", num_classes=7, out_features=("linear",))
    backbone.load_state_dict(lambda_50.state_dict())
    x = image(2, 3, 33, 64)
    with torch.no_grad():
        output = backbone.eval()(x)
        assert list(output) == ["linear"]
        torch.testing.assert_close(output["linear"], lambda_50.eval()(x)["linear"])


def test_under_autocast(lambda_50: nn.Module) -> None:
    x = image(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = lambda_50.eval()(x)["res4"]
    with torch.no_grad():
        expected = lambda_50(x)["res4"]
    assert output.isfinite().all()
    assert (output.float() - expected).norm() < 0.1 * expected.norm()
