"""The family under timm's names."""

from __future__ import annotations

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import timm
import torch
from timm.optim import create_optimizer_v2

from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError
from lambda_det.pretrain.timm_models import PATTERNS, TimmLambdaResNet


@pytest.fixture(scope="module")
def small():
    """λ-50 with everything random, so that no block is its shortcut."""
    torch.manual_seed(0)
    model = timm.create_model("lambda_resnet50", num_classes=5, scope=7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def image():
    return torch.randn(2, 3, 65, 49, generator=torch.Generator().manual_seed(1))


def test_every_depth_and_variant_is_there_beside_timms_own():
    for pattern in PATTERNS.values():
        for depth in (50, 101, 152, 200, 270, 350, 420):
            assert timm.is_model(pattern.format(depth=depth))
        assert not timm.is_model(pattern.format(depth=26))  # of no paper
    assert {"lambda_resnet26t", "lambda_resnet50ts", "lambda_resnet101"} <= set(
        timm.list_models("lambda_resnet*")
    )
    theirs = timm.create_model("lambda_resnet26t", num_classes=2)
    assert not isinstance(theirs, TimmLambdaResNet)
    assert type(timm.create_model("resnetrs50", num_classes=2)).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("name", "millions"),  # published, see lambda_det's backbone tests
    [
        ("lambda_resnet101", 36.9),
        ("lambda_resnet152", 51.4),
        ("lambda_resnet101_full", 26.0),
        ("lambda_det_resnet101", 44.6),
        ("lambda_det_seresnet101", 63.6),
    ],
)
def test_parameters(name, millions):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert model.num_classes == 1000 and model.default_cfg["architecture"] == name


def test_logits_and_names_are_the_backbones(small, image):
    reference = build_lambda_resnet(
        50, "lambda", num_classes=5, out_features=("linear", "res5"), scope=7
    ).eval()
    reference.load_state_dict(small.state_dict())
    with torch.no_grad():
        expected = reference(image)
        assert torch.allclose(small(image), expected["linear"], rtol=1e-5, atol=1e-6)
        assert torch.equal(small.forward_features(image), expected["res5"])
        assert (small(image)[0] - small(image)[1]).abs().max() > 1e-3


def test_features(small, image):
    model = timm.create_model("lambda_resnet50", features_only=True, out_indices=(1, 3, 4), scope=7)
    model.load_state_dict(small.state_dict(), strict=False)
    assert model.feature_info.channels() == [256, 1024, 2048]
    assert model.feature_info.reduction() == [4, 16, 32]
    with torch.no_grad():
        features = model.eval()(image)
        res5 = small.forward_features(image)
    assert [tuple(x.shape[2:]) for x in features] == [(17, 13), (5, 4), (3, 2)]
    assert torch.equal(features[2], res5)


def test_head(image):
    model = timm.create_model("lambda_resnet50", num_classes=5, drop_rate=0.5, scope=7).eval()
    features = model.forward_features(image)
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.allclose(pooled, features.mean(dim=(2, 3)))
    assert model.get_classifier() is model.linear and model.get_classifier(name_only=True)
    model.reset_classifier(3)
    assert model(image).shape == (2, 3) and model.num_classes == 3
    assert "linear.weight" in model.state_dict()
    model.reset_classifier(0)
    assert torch.allclose(model(image), pooled)
    model.reset_classifier(0, "")
    assert model(image).shape == (2, 2048, 3, 2)
    with pytest.raises(InputError, match="global_pool='max'"):
        timm.create_model("lambda_resnet50", global_pool="max")
    bare = timm.create_model("lambda_resnet50", num_classes=0, scope=7)
    assert not any(name.startswith("linear") for name in bare.state_dict())


def test_what_timms_training_script_asks_for(small, image):
    data = timm.data.resolve_data_config({}, model=small)
    assert data["input_size"] == (3, 224, 224) and data["mean"] == (0.485, 0.456, 0.406)
    optimizer = create_optimizer_v2(small, "sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert max(scales) == 1 and len(scales) > 10  # a depth per block
    model = timm.create_model(
        "lambda_resnet50", num_classes=5, drop_rate=0.1, drop_path_rate=0.1, in_chans=1,
        global_pool=None, scope=7,
    )  # fmt: skip
    assert model(image[:, :1]).shape == (2, 5)


def test_checkpointed_activations_give_the_same_gradients(small, image):
    gradients = []
    for enable in (False, True):
        small.set_grad_checkpointing(enable)
        small.zero_grad()
        small(image).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in small.named_parameters()})
    small.set_grad_checkpointing(False)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-5), name
