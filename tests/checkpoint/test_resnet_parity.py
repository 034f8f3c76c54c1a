"""Ordinary ResNets and d-li14's network loaded into ours give their own outputs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from parity_helpers import (
    STAGES,
    assert_position_bias_is_seen,
    calibrate,
    difference,
    images,
    load_and_compare,
    resnet_features,
)
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.conversion import convert
from lambda_det.checkpoint.translation import read_and_translate

pytestmark = pytest.mark.slow  # builds or trains whole networks


def test_torchvision(tmp_path: Path) -> None:
    """At depth 50; 101 is the file of MSRA's below."""
    torch.manual_seed(0)
    network = calibrate(torchvision.models.resnet50(weights=None))
    file = tmp_path / "resnet.pth"
    torch.save(network.state_dict(), file)
    architecture = {"depth": 50, "variant": "resnet", "stem": "v1"}
    load_and_compare(file, resnet_features(network), architecture)
    found = convert(read_and_translate(str(file)), source="torchvision").architecture
    assert {key: found[key] for key in architecture} == architecture


def detectron2_resnet() -> ResNet:
    stages = ResNet.make_default_stages(101, stride_in_1x1=True, norm="BN")
    features = [*STAGES, "linear"]
    return ResNet(BasicStem(norm="BN"), stages, num_classes=1000, out_features=features)


def caffe2_name(name: str) -> str:
    """res4.22.conv1.norm.running_mean -> res4_22_branch2a_bn_running_mean, as in MSRA's files."""
    if name.startswith("linear"):
        return name.replace("linear.", "fc1000_").replace("weight", "w").replace("bias", "b")
    module, leaf = name.replace(".norm", "").rsplit(".", 1)
    module = {"stem.conv1": "conv1"}.get(module, module)
    for part, branch in zip(("conv1", "conv2", "conv3"), "abc", strict=True):
        module = re.sub(rf"(res\d\.\d+)\.{part}", rf"\1.branch2{branch}", module)
    module = module.replace("shortcut", "branch1").replace(".", "_")
    if ".norm" not in name:
        return f"{module}_w"
    module = "res_conv1" if module == "conv1" else module
    return f"{module}_bn_{ {'weight': 'gamma', 'bias': 'beta'}.get(leaf, leaf) }"


@pytest.fixture(scope="module")
def msra(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResNet]:
    """detectron2's ResNet-101 and its weights in a file like MSRA's."""
    torch.manual_seed(0)
    network = calibrate(detectron2_resnet())
    arrays = {
        caffe2_name(name): tensor.numpy()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert {"conv1_w", "res_conv1_bn_gamma", "res2_0_branch1_w", "fc1000_b"} <= arrays.keys()
    arrays["conv1_b"] = arrays["res_conv1_bn_beta"] * 0 + 7  # in MSRA's, used by nobody
    file = tmp_path_factory.mktemp("msra") / "R-101.pkl"
    file.write_bytes(pickle.dumps(arrays, protocol=2))
    return file, network


def test_msra_under_caffe2_names(msra: tuple[Path, ResNet]) -> None:
    file, network = msra
    architecture = {"depth": 101, "variant": "resnet", "stem": "v1", "stride_in_1x1": True}
    load_and_compare(file, network, architecture)
    conversion = convert(read_and_translate(str(file)), source="detectron2")
    found = conversion.architecture
    assert {key: found[key] for key in architecture} == architecture
    assert conversion.images.channel_order == "BGR" and conversion.images.pixel_std == (1, 1, 1)


def test_the_file_is_what_detectron2_itself_reads(msra: tuple[Path, ResNet]) -> None:
    """Else the test above would compare with a layout of its own making."""
    file, network = msra
    other = detectron2_resnet().eval()
    # its classifier is called linear only under Caffe2's pred_*: left out of the comparison
    DetectionCheckpointer(other).load(str(file))
    x = images()
    with torch.no_grad():
        assert difference(other(x)["res5"], network(x)["res5"]) <= 1e-6


def test_stride_in_the_wrong_place_would_be_seen(msra: tuple[Path, ResNet]) -> None:
    file, network = msra
    arguments = {"stem": "v1", "out_features": ("res3",)}
    ours = build_lambda_resnet(101, "resnet", stride_in_1x1=False, **arguments).eval()
    load_weights(ours, str(file))
    x = images()
    with torch.no_grad():
        assert difference(ours(x)["res3"], network(x)["res3"]) >= 0.1


class DLi14Layer(nn.Module):
    """The layer under d-li14's names, straight from the paper's sums with a Conv3d."""

    def __init__(self, channels: int, stride: int, *, heads: int = 4, depth: int = 16) -> None:
        super().__init__()
        self.rows = [heads * depth, depth, channels // heads]
        self.conv_qkv = nn.Conv2d(channels, sum(self.rows), 1, bias=False)
        self.norm_q = nn.BatchNorm2d(self.rows[0])
        self.norm_v = nn.BatchNorm2d(self.rows[2])
        self.lambda_conv = nn.Conv3d(1, depth, (1, 23, 23), padding=(0, 11, 11))
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.conv_qkv(x).split(self.rows, dim=1)
        query, value = self.norm_q(query).unflatten(1, (4, 16)), self.norm_v(value)
        content = torch.einsum("nkm,nvm->nkv", key.flatten(2).softmax(-1), value.flatten(2))
        position = self.lambda_conv(value.unsqueeze(1))  # (n, k, v, H, W)
        lambdas = content[..., None, None] + position
        return self.pool(torch.einsum("nhkyx,nkvyx->nhvyx", query, lambdas).flatten(1, 2))


def test_dli14(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    for index in range(1, 5):
        for block in getattr(network, f"layer{index}"):
            block.conv2 = DLi14Layer(block.conv2.in_channels, block.conv2.stride[0])
    for name, parameter in network.named_parameters():
        if name.endswith("lambda_conv.bias"):
            nn.init.normal_(parameter)
    calibrate(network, branch=0.2)
    # the numbers that the public network has (reference)
    state = network.state_dict()
    assert len(state) == 512
    assert sum(p.numel() for p in network.parameters()) == 14_995_848
    assert state["layer4.0.conv2.conv_qkv.weight"].shape == (208, 512, 1, 1)
    file = tmp_path / "lambda_resnet50.pth"
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, file)

    architecture = convert(read_and_translate(str(file)), source="dli14").architecture
    assert architecture["position_bias"] and architecture["scope"] == 23
    assert set(architecture["lambda_blocks"].values()) == {"all"} and architecture["stem"] == "v1"
    del architecture["num_classes"]
    ours = load_and_compare(file, resnet_features(network), architecture)
    assert_position_bias_is_seen(ours)
