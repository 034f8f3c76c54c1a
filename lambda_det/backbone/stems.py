"""The two stems. ``"v1"`` is detectron2's own BasicStem; ``"rs"`` is ResNet-RS's."""

from __future__ import annotations

from detectron2.layers import CNNBlockBase, Conv2d
from detectron2.modeling.backbone.resnet import BasicStem
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor
from torch.nn import functional as F

from lambda_det.backbone.norms import BackboneNorm, backbone_norm
from lambda_det.errors import InputError

STEM_CHANNELS = 64


class ResNetRSStem(CNNBlockBase):
    """Three 3x3 convolutions and a strided fourth in place of max-pooling (arXiv:2103.07579).

    Stride 4 in all: 3x3 s2 32, 3x3 32, 3x3 64, 3x3 s2 64, each with norm and ReLU.
    """

    def __init__(self, in_channels: int = 3, norm: BackboneNorm = "BN") -> None:
        super().__init__(in_channels, STEM_CHANNELS, stride=4)
        half = STEM_CHANNELS // 2
        self.conv1 = _conv3x3(in_channels, half, stride=2, norm=norm)
        self.conv2 = _conv3x3(half, half, stride=1, norm=norm)
        self.conv3 = _conv3x3(half, STEM_CHANNELS, stride=1, norm=norm)
        self.conv4 = _conv3x3(STEM_CHANNELS, STEM_CHANNELS, stride=2, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 64, ceil(H / 4), ceil(W / 4))."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu_(conv(x))
        return x


def _conv3x3(in_channels: int, out_channels: int, *, stride: int, norm: BackboneNorm) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=False,
        norm=backbone_norm(norm, out_channels),
    )
    c2_msra_fill(conv)
    return conv


def build_stem(stem: str, in_channels: int, norm: BackboneNorm) -> CNNBlockBase:
    """The stem by name.

    Raises:
        InputError: ``stem`` is neither ``"rs"`` nor ``"v1"``.
    """
    if stem == "rs":
        return ResNetRSStem(in_channels, norm)
    if stem == "v1":
        return BasicStem(in_channels, STEM_CHANNELS, norm)
    raise InputError(f"stem={stem!r}: expected one of 'rs', 'v1'")
