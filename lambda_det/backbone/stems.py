"""The stems of the family: ``"rs"`` of ResNet-RS, ``"v1"`` of detectron2, ``"tiered"`` of timm."""

from __future__ import annotations

from detectron2.layers import CNNBlockBase, Conv2d
from detectron2.modeling.backbone.resnet import BasicStem
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor
from torch.nn import functional as F

from lambda_det.backbone.activations import activation_function
from lambda_det.backbone.masking import fill_padding_, strided_mask
from lambda_det.backbone.norms import backbone_norm
from lambda_det.errors import check_choice
from lambda_det.layers.norm import Norm

STEM_CHANNELS = 64


class ResNetRSStem(CNNBlockBase):
    """The stem of ResNet-RS (arXiv:2103.07579): a strided convolution replaces max-pooling.

    Four 3x3 convolutions with 32 (stride 2), 32, 64 and 64 (stride 2) channels, each with norm and
    activation; the stride of the stem is 4.
    """

    def __init__(self, in_channels: int = 3, norm: Norm = "BN", activation: str = "relu") -> None:
        super().__init__(in_channels, STEM_CHANNELS, stride=4)
        self.activation = activation_function(activation)
        half = STEM_CHANNELS // 2
        self.conv1 = _conv3x3(in_channels, half, stride=2, norm=norm)
        self.conv2 = _conv3x3(half, half, stride=1, norm=norm)
        self.conv3 = _conv3x3(half, STEM_CHANNELS, stride=1, norm=norm)
        self.conv4 = _conv3x3(STEM_CHANNELS, STEM_CHANNELS, stride=2, norm=norm)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 64, ceil(H / 4), ceil(W / 4)).

        ``padding_mask`` (N, H, W) bool is True at the padding of ``x``, which must hold zeros.
        """
        mask = strided_mask(padding_mask, self.conv1.stride[0])
        x = self.activation(fill_padding_(self.conv1(x), mask))
        x = self.activation(fill_padding_(self.conv2(x), mask))
        x = self.activation(fill_padding_(self.conv3(x), mask))
        return self.activation(self.conv4(x))


class TieredStem(CNNBlockBase):
    """The tiered stem of timm: three 3x3 convolutions and a 3x3 max-pooling with stride 2.

    The convolutions have 24 (stride 2), 32 and 64 channels, each with norm and activation; the
    stride of the stem is 4.
    """

    def __init__(self, in_channels: int = 3, norm: Norm = "BN", activation: str = "relu") -> None:
        super().__init__(in_channels, STEM_CHANNELS, stride=4)
        self.activation = activation_function(activation)
        widths = (3 * STEM_CHANNELS // 8, STEM_CHANNELS // 2, STEM_CHANNELS)
        self.conv1 = _conv3x3(in_channels, widths[0], stride=2, norm=norm)
        self.conv2 = _conv3x3(widths[0], widths[1], stride=1, norm=norm)
        self.conv3 = _conv3x3(widths[1], widths[2], stride=1, norm=norm)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 64, ceil(H / 4), ceil(W / 4)).

        ``padding_mask`` (N, H, W) bool is True at the padding of ``x``, which must hold zeros.
        """
        mask = strided_mask(padding_mask, self.conv1.stride[0])
        x = self.activation(fill_padding_(self.conv1(x), mask))
        x = self.activation(fill_padding_(self.conv2(x), mask))
        return _max_pool(self.activation(self.conv3(x)), mask)


class V1Stem(BasicStem):
    """detectron2's BasicStem with a choice of activation.

    It is a 7x7 convolution with stride 2 and 64 channels and a 3x3 max-pooling with stride 2.
    """

    def __init__(self, in_channels: int = 3, norm: Norm = "BN", activation: str = "relu") -> None:
        super().__init__(in_channels, STEM_CHANNELS, norm)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 64, ceil(H / 4), ceil(W / 4)).

        ``padding_mask`` (N, H, W) bool is True at the padding of ``x``, which must hold zeros.
        """
        mask = strided_mask(padding_mask, self.conv1.stride[0])
        return _max_pool(self.activation(self.conv1(x)), mask)


def _max_pool(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    if padding_mask is not None:  # -1 is below every output of the activations
        x = x.masked_fill(padding_mask[:, None], -1)
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def _conv3x3(in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> Conv2d:
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


_STEMS = {"rs": ResNetRSStem, "v1": V1Stem, "tiered": TieredStem}


def build_stem(stem: str, in_channels: int, norm: Norm, activation: str = "relu") -> CNNBlockBase:
    """Build the stem called ``stem``.

    Raises:
        InputError: ``stem`` is none of ``"rs"``, ``"v1"``, ``"tiered"``, or the activation is
            unknown.
    """
    check_choice("stem", stem, _STEMS)
    return _STEMS[stem](in_channels, norm, activation)
