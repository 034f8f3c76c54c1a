"""BatchNorm that was folded into convolutions: the same function, and trainable when measured."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from parity_helpers import calibrate, difference, images
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.folded_norms import (
    EPS,
    MEASURE_NORMS_KEY,
    norm_after,
    norms_without_statistics,
    unfold,
    with_norms,
)
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError

ODD = (97, 131)
NETWORKS = {
    "resnet": {"variant": "resnet", "stem": "v1"},
    "se": {"variant": "se"},
    "lambda": {"variant": "lambda"},
}


def network_of(name: str, **more: object) -> nn.Module:
    """Of random affines and of the statistics of ``images()``, in float64."""
    torch.manual_seed(0)
    arguments = NETWORKS[name] | {"depth": 26} | more
    network = build_lambda_resnet(**arguments, backend="reference", out_features=("res3", "res5"))
    return calibrate(network, branch=0.2 if name == "lambda" else 1.0).double()


def folded(network: nn.Module) -> dict[str, Tensor]:
    """The state with every BatchNorm after a convolution folded into it, by PyTorch's function."""
    state = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and f"{norm_after(name)}.running_var" in state:
            norm = network.get_submodule(norm_after(name))
            bare = nn.Conv2d(1, 1, 1, bias=False).eval()
            bare.weight = module.weight
            fused = fuse_conv_bn_eval(bare, norm)
            state[f"{name}.weight"], state[f"{name}.bias"] = fused.weight.data, fused.bias.data
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                del state[f"{norm_after(name)}.{leaf}"]
    return state


def loaded(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not unexpected and all("num_batches" in name for name in missing)
    return network


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def train_and_eval(network: nn.Module, x: Tensor, feature: str = "res5") -> float:
    """The cosine of the features in training mode and in evaluation."""
    with torch.no_grad():
        expected = network.eval()(x)[feature]
        found = network.train()(x)[feature]
    return cosine(found, expected)


@pytest.mark.parametrize(
    "name",
    [n if n == "resnet" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_unfolded_is_the_same_function_and_trains(name: str) -> None:
    network, x = network_of(name), images(size=ODD).double()
    with torch.no_grad():
        expected = network(x)["res5"]
    assert difference(expected[0], expected[1]) > 0.1, "the network does not see its input"
    state = folded(network)
    first = "res2.0.conv1"
    assert f"{first}.bias" in state and f"{first}.norm.weight" not in state
    given = with_norms(state)
    norms = norms_without_statistics(given)
    removed = [n for n in network.state_dict() if n.endswith("running_var") and n not in state]
    assert sorted(f"{norm}.running_var" for norm in norms) == sorted(removed)
    architecture = NETWORKS[name] | {"depth": 26, "backend": "reference"}
    measured, number = unfold("w.pth", given, architecture, [x])
    assert number == len(norms) and not norms_without_statistics(measured)
    for tensors in (given, measured):
        other = loaded(network_of(name), tensors).eval()
        with torch.no_grad():
            assert difference(other(x)["res5"], expected) < 1e-9
    # lambda_norm keeps its unbiased variances, which a batch of 40 positions does not have.
    assert train_and_eval(loaded(network_of(name), measured), x) > 0.995
    assert train_and_eval(loaded(network_of(name), given), x) < 0.9


def save(folder: Path, tensors: dict, name: str = "w.pth") -> str:
    torch.save({n: t.float() for n, t in tensors.items()}, folder / name)
    return str(folder / name)


def config(**keys: object):
    cfg = get_cfg()
    for name, value in keys.items():
        cfg.MODEL.LAMBDA_RESNET[name] = value
    return cfg


@pytest.mark.parametrize(
    ("norm", "complete", "warned"), [("BN", False, 1), ("FrozenBN", False, 0), ("BN", True, 0)]
)
def test_a_training_with_bn_is_warned(norm, complete, warned, tmp_path: Path, caplog) -> None:
    network = network_of("resnet")
    file = save(tmp_path, folded(network))
    ours = build_lambda_resnet(26, "resnet", stem="v1", norm=norm, out_features=("res5",))
    cfg = config(DEPTH=26, VARIANT="resnet", STEM="v1", NORM=norm)
    with caplog.at_level(logging.WARNING):
        assert load_weights(ours, file, cfg=cfg, complete=complete).share() == 1
    assert len(caplog.records) == warned
    if warned:
        words = (
            "w.pth",
            "29 norms",
            "set MODEL.LAMBDA_RESNET.NORM 'FrozenBN', or ",
            MEASURE_NORMS_KEY,
        )
        assert all(word in caplog.text for word in words) and "\n" not in caplog.messages[0]
    x = images(size=ODD).double()
    with torch.no_grad():
        assert difference(ours.eval().double()(x)["res5"], network(x)["res5"]) < 1e-5


def test_the_norm_of_detectron2s_resnet_has_another_key(tmp_path: Path, caplog) -> None:
    torch.manual_seed(0)
    stages = ResNet.make_default_stages(50, norm="BN", stride_in_1x1=False)[:1]
    theirs = ResNet(BasicStem(norm="BN"), stages, out_features=["res2"])
    file = save(tmp_path, folded(calibrate(theirs).double()))
    with caplog.at_level(logging.WARNING):
        load_weights(theirs, file)
    assert "MODEL.RESNETS.NORM 'FrozenBN'" in caplog.text and "11 norms" in caplog.text


def test_frozen_stages_are_not_warned_of(tmp_path: Path, caplog) -> None:
    file = save(tmp_path, folded(network_of("resnet")))
    ours = build_lambda_resnet(26, "resnet", stem="v1", freeze_at=5)
    with caplog.at_level(logging.WARNING):
        load_weights(ours, file)
    assert not caplog.records


def test_a_lambda_network_takes_the_measured_norms_that_it_has(tmp_path: Path, caplog) -> None:
    """Lambda layers and SE stay random; before them, training computes what evaluation does."""
    x = images(size=ODD)
    given = with_norms(folded(network_of("resnet")))
    measured, _ = unfold("w.pth", given, NETWORKS["resnet"] | {"depth": 26}, [x])
    cfg = config(DEPTH=26, VARIANT="lambda", STEM="v1", SE_STAGES=[], PARTIAL_INIT=True)
    arguments = {"stem": "v1", "se_stages": (), "out_features": ("res3",)}
    values = []
    for tensors in (given, measured):
        caplog.clear()
        ours = build_lambda_resnet(26, "lambda", **arguments)
        coverage = load_weights(ours, save(tmp_path, tensors), cfg=cfg)
        assert not [name for name in coverage.random() if ".lambda_" not in name]
        values.append((train_and_eval(ours, x, "res3"), len(caplog.records)))
    (before, warnings), (after, none) = values
    assert before < 0.95 and after > 0.999 and (warnings, none) == (1, 0)


def test_a_channel_that_is_constant_stays_so(tmp_path: Path) -> None:
    state = with_norms(folded(network_of("resnet")))
    state["res3.0.conv1.weight"][5] = 0
    state["res3.0.conv1.norm.bias"][5] = 0.25
    architecture = NETWORKS["resnet"] | {"depth": 26}
    x = images(size=ODD).double()
    measured, _ = unfold("w.pth", state, architecture, [x[:1], x[1:, :, :-6]])
    norm = {n.rsplit(".", 1)[1]: t[5] for n, t in measured.items() if "res3.0.conv1.norm" in n}
    assert norm["running_var"] == norm["running_mean"] == 0 and norm["bias"] == 0.25
    assert norm["weight"].item() == pytest.approx(EPS**0.5)
    plain, other = (loaded(network_of("resnet"), t).eval() for t in (state, measured))
    with torch.no_grad():
        assert difference(other(x)["res5"], plain(x)["res5"]) < 1e-9
        assert torch.isfinite(other.train()(x)["res5"]).all()


def test_caffe2_affine_norms_and_the_bias_of_the_stem() -> None:
    """Detectron's own files have norms of a scale and a bias alone."""
    arrays = {
        "conv1_w": torch.ones(64, 3, 7, 7), "conv1_b": torch.ones(64) * 7,
        "res_conv1_bn_s": torch.ones(64) * 2, "res_conv1_bn_b": torch.ones(64) * 3,
        "res2_0_branch2a_w": torch.ones(64, 64, 1, 1), "res2_0_branch2a_b": torch.ones(64),
        "res2_0_branch2b_w": torch.ones(64, 64, 3, 3),
        "res2_0_branch2c_w": torch.ones(256, 64, 1, 1),
    }  # fmt: skip
    tensors = translate("w.pkl", arrays).tensors
    assert "stem.conv1.bias" not in tensors and "res2.0.conv1.bias" not in tensors
    assert torch.all(tensors["stem.conv1.norm.weight"] == 2)
    assert torch.all(tensors["res2.0.conv1.norm.bias"] == 1)
    assert norms_without_statistics(tensors) == ["res2.0.conv1.norm", "stem.conv1.norm"]
    del arrays["res_conv1_bn_s"], arrays["res_conv1_bn_b"]
    assert torch.all(translate("w.pkl", arrays).tensors["stem.conv1.norm.bias"] == 7)


def test_a_bias_before_a_norm_goes_into_its_mean() -> None:
    """Also one of half precision, in which the mean would be rounded."""
    network = network_of("resnet")
    state = dict(network.state_dict())
    biased = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            bias = torch.randn(module.out_channels, dtype=torch.float16)
            biased[f"{name}.bias"] = bias
            state[f"{norm_after(name)}.running_mean"] = module.norm.running_mean + bias
    state |= biased
    assert len(biased) > 20
    with torch.no_grad():
        x = images(size=ODD).double()
        expected, found = network(x), loaded(network_of("resnet"), with_norms(state))(x)
        assert difference(found["res5"], expected["res5"]) < 1e-12
    group = {"res2.0.conv1.weight": 1, "res2.0.conv1.bias": 2, "res2.0.conv1.norm.weight": 3}
    assert with_norms(group) == group  # a norm without statistics cannot take it


def test_other_networks_are_left_alone() -> None:
    for norm in ("BN", "GN", ""):
        network = build_lambda_resnet(26, "lambda", norm=norm, num_classes=3)
        state = {n: t for n, t in network.state_dict().items() if t.is_floating_point()}
        assert with_norms(state) == state and not norms_without_statistics(state)


def test_what_cannot_be_measured_is_said() -> None:
    network = network_of("resnet")
    architecture = NETWORKS["resnet"] | {"depth": 26}
    with pytest.raises(InputError, match=r"^w\.pth: every norm in the file has statistics"):
        unfold("w.pth", network.state_dict(), architecture, [])
    state = with_norms(folded(network))
    del state["res4.0.conv2.weight"]
    with pytest.raises(InputError, match=r"whole network, but res4\.0\.conv2\.weight is missing"):
        unfold("w.pth", state, architecture, [])
