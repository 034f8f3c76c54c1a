"""timm's networks loaded into ours give timm's outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity_helpers import (
    assert_position_bias_is_seen,
    byobnet_features,
    calibrate,
    load_and_compare,
    resnet_features,
)

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.architecture import infer_architecture
from lambda_det.checkpoint.conversion import convert
from lambda_det.checkpoint.name_maps import TIMM_RESNET_RS
from lambda_det.checkpoint.rules import LoadingRules
from lambda_det.checkpoint.translation import read_and_translate, translate
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow  # builds or trains whole networks

timm = pytest.importorskip("timm", reason="timm is not installed: its weights cannot be compared")

LAMBDA = {"stem": "tiered", "scope": 9, "position_bias": True}


def test_resnetrs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = calibrate(timm.create_model("resnetrs50"))
    file = tmp_path / "model.safetensors"  # timm's own format
    save_file(network.state_dict(), file)
    architecture = {"depth": 50, "variant": "se", "stem": "rs"}
    load_and_compare(file, resnet_features(network, "act1"), architecture)
    found = convert(read_and_translate(str(file)), source="timm").architecture
    assert {key: found[key] for key in architecture} == architecture


def test_lambda_resnet50ts(tmp_path: Path) -> None:
    """SiLU, lambda layers at stride 1; timm's own sizes are multiples of 32."""
    network = calibrate(timm.create_model("lambda_resnet50ts"), size=(96, 128), branch=0.2)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "model.pth")
    architecture = LAMBDA | {"depth": 50, "variant": "resnet", "activation": "silu"}
    architecture["lambda_blocks"] = {"res3": [4], "res4": [2, 4, 6], "res5": [2]}
    ours = load_and_compare(
        tmp_path / "model.pth", byobnet_features(network), architecture, size=(96, 128)
    )
    assert_position_bias_is_seen(ours, size=(96, 128))
    found = convert(read_and_translate(str(tmp_path / "model.pth"))).architecture
    assert {key: found[key] for key in LAMBDA} == LAMBDA and found["activation"] == "silu"
    load_weights(build_lambda_resnet(**found), str(tmp_path / "model.pth"))


def test_lambda_resnet26t(tmp_path: Path) -> None:
    """A strided lambda layer with 2x2 pooling."""
    network = calibrate(timm.create_model("lambda_resnet26t"), size=(96, 128), branch=0.2)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    architecture = convert(read_and_translate(str(tmp_path / "model.pth"))).architecture
    assert architecture["lambda_pool"] == 2 and architecture["stem"] == "tiered"
    del architecture["num_classes"]
    ours = load_and_compare(
        tmp_path / "model.pth", byobnet_features(network), architecture, size=(96, 128)
    )
    ours(torch.zeros(1, 3, 104, 139))  # a size at which timm's own fails


def test_lambda_resnet26rpt(tmp_path: Path) -> None:
    """A global scope, at the one size that timm's runs at."""
    network = calibrate(timm.create_model("lambda_resnet26rpt_256"), size=(256, 256), branch=0.2)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    architecture = convert(read_and_translate(str(tmp_path / "model.pth"))).architecture
    assert architecture["scope"] == "global" and tuple(architecture["max_size"]) == (256, 256)
    del architecture["num_classes"]
    load_and_compare(
        tmp_path / "model.pth", byobnet_features(network), architecture, size=(256, 256)
    )


@pytest.mark.parametrize("depth", [50, 101, 152, 200, 270, 350, 420])
def test_every_depth_of_resnetrs_fits(depth: int) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(f"resnetrs{depth}").state_dict()
        ours = build_lambda_resnet(depth, "se", num_classes=1000).state_dict()
    source = {  # files and finiteness have their own tests
        TIMM_RESNET_RS.translate(name): tensor
        for name, tensor in theirs.items()
        if not name.endswith("num_batches_tracked")
    }
    counted = {n: t.shape for n, t in ours.items() if not n.endswith("num_batches_tracked")}
    assert {n: t.shape for n, t in source.items()} == counted
    found = infer_architecture(source)
    assert (found["depth"], found["variant"], found["stem"]) == (depth, "se", "rs")


REFUSED = {
    "resnet18": "basic blocks",
    "resnet50d": "max-pooling",
    "resnet26t": "max-pooling",
    "resnext50_32x4d": "grouped",
    "wide_resnet50_2": "Wide",
    "seresnet50": "conv1.weight",
    "halonet26t": "self_attn",
    "botnet26t_256": "self_attn",
    "ecaresnet50t": "se.conv.weight",
    "resnet50_gn": "running_mean",
    "vit_tiny_patch16_224": "no network",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_by_name(name: str, monkeypatch) -> None:
    monkeypatch.setattr("lambda_det.checkpoint.translation.check_finite", lambda *_: None)
    with torch.device("meta"):  # nothing is computed
        state = timm.create_model(name).state_dict()
    with pytest.raises(InputError) as error:
        conversion = convert(translate("model.pth", state))
        LoadingRules().check(conversion.coverage, "model.pth")
    assert str(error.value).startswith("model.pth: ") and "\n" not in str(error.value)
    assert REFUSED[name] in str(error.value)
