"""The bottleneck of the family: detectron2's bottleneck, with an optional lambda layer and SE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lambda_det.backbone.activations import activation_function
from lambda_det.backbone.kinds import Kind, make_layer, takes_mask
from lambda_det.backbone.masking import average_pool, fill_padding_, strided_mask
from lambda_det.backbone.norms import backbone_norm
from lambda_det.layers import LambdaLayer
from lambda_det.layers.norm import Norm
from lambda_det.layers.squeeze_excitation import SqueezeExcitation


class LambdaBottleneck(BottleneckBlock):
    """A bottleneck: conv1, then conv2 or another layer, then conv3 (and se), plus the shortcut.

    A norm and an activation follow each layer. With the default options the block is detectron2's
    BottleneckBlock, including the names of its parameters.

    Args:
        in_channels, out_channels: number of channels of the block's input and output.
        bottleneck_channels: number of channels between conv1 and conv3.
        stride: stride of the block.
        norm: as for :func:`detectron2.layers.get_norm`.
        stride_in_1x1: put the stride into conv1 instead of conv2. A lambda block ignores this: its
            stride is an average pooling after the lambda layer.
        pool_shortcut: a strided block's shortcut is a 2x2 average pooling and a 1x1 convolution
            (ResNet-D) instead of a strided 1x1 convolution.
        lambda_layer: arguments of the layer that replaces conv2; None = conv2.
        kind: which layer replaces it: ``"lambda"`` is a :class:`LambdaLayer` under the name
            ``lambda_layer``, another one has the name ``spatial_layer``. In either case
            ``lambda_pool`` and ``lambda_norm`` follow.
        lambda_norm_qv: norm of the lambda layer's queries and values; None = ``norm``.
        se_ratio: number of squeezed channels divided by ``out_channels``; 0 = no
            squeeze-and-excitation.
        activation: ``"relu"`` or ``"silu"``.
        lambda_pool: side of the average pooling that gives a lambda block its stride: 3 as in the
            paper, or 2 as in timm.
        drop_path: probability to drop the residual branch of an image in training.
        zero_init_residual: the weight of the last norm starts at 0, so that the block starts as its
            shortcut; False starts it at 1. The weight of a FrozenBN comes from the checkpoint and
            is not changed.
        idle: the block computes its shortcut only. The residual branch keeps its parameters but is
            neither computed nor trained.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        pool_shortcut: bool = False,
        lambda_layer: Mapping[str, object] | None = None,
        lambda_norm_qv: Norm | None = None,
        se_ratio: float = 0.0,
        activation: str = "relu",
        lambda_pool: int = 3,
        drop_path: float = 0.0,
        zero_init_residual: bool = True,
        idle: bool = False,
        kind: Kind = "lambda",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            bottleneck_channels=bottleneck_channels,
            stride=stride,
            norm=norm,
            stride_in_1x1=stride_in_1x1 and lambda_layer is None,
        )
        self.activation = activation_function(activation)
        self.shortcut_pool = None
        if pool_shortcut and stride > 1:
            # At odd sizes the strided convolution of the branch rounds up, so the pooling must too.
            self.shortcut_pool = nn.AvgPool2d(
                stride, stride, ceil_mode=True, count_include_pad=False
            )
            self.shortcut.stride = (1, 1)

        self.lambda_layer = None
        if lambda_layer is not None:
            del self.conv2
            if kind == "lambda":
                norm_qv = norm if lambda_norm_qv is None else lambda_norm_qv
                self.lambda_layer = LambdaLayer(
                    bottleneck_channels, norm=partial(backbone_norm, norm_qv), **lambda_layer
                )
            else:
                self.spatial_layer = make_layer(kind, bottleneck_channels, lambda_layer)
                self._takes_mask = takes_mask(self.spatial_layer)
            self.lambda_pool = _lambda_pool(lambda_pool, stride) if stride > 1 else None
            self.lambda_norm = backbone_norm(norm, bottleneck_channels)

        self.se = None
        if se_ratio > 0:
            self.se = SqueezeExcitation(out_channels, max(1, round(out_channels * se_ratio)))
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path > 0 else None

        last_weight = getattr(self.conv3.norm, "weight", None)
        if zero_init_residual and isinstance(last_weight, nn.Parameter):
            nn.init.zeros_(last_weight)
        self.idle = idle
        if idle:
            for name, module in self.named_children():
                if name not in ("shortcut", "shortcut_pool"):
                    module.requires_grad_(False)
            _close_branch(self)
            self.register_load_state_dict_post_hook(_close_branch)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: (N, in_channels, H, W).
            padding_mask: (N, H, W) bool, True where a position is not part of the image. Values of
                ``x`` at such positions do not affect the output inside the image.

        Returns:
            (N, out_channels, ceil(H / stride), ceil(W / stride)).
        """
        if self.idle:
            shortcut = self._shortcut(x, padding_mask)
            return self.activation(shortcut.clone() if self.shortcut is None else shortcut)
        out = self.conv1(x)
        middle_mask = strided_mask(padding_mask, self.conv1.stride[0])
        out = self.activation(fill_padding_(out, middle_mask))  # activations map zero to zero
        out = self.activation(self._middle(out, middle_mask))
        out = self.conv3(out)
        if self.se is not None:
            out = self.se(out, strided_mask(padding_mask, self.stride))
        if self.drop_path is not None:
            out = self.drop_path(out)
        out += self._shortcut(x, padding_mask)
        return self.activation(out)

    def _middle(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        if self.lambda_layer is not None:
            x = self.lambda_layer(x, padding_mask)
        elif hasattr(self, "conv2"):
            return self.conv2(x)
        else:  # a layer that takes no mask reads the padding as zeros
            mask = {"padding_mask": padding_mask} if self._takes_mask else {}
            x = self.spatial_layer(x, **mask)
        if self.lambda_pool is not None:
            x = average_pool(self.lambda_pool, x, padding_mask)
        return x if self.lambda_norm is None else self.lambda_norm(x)

    def _shortcut(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        if self.shortcut_pool is not None:
            x = average_pool(self.shortcut_pool, x, padding_mask)
        return x if self.shortcut is None else self.shortcut(x)


def _close_branch(block: LambdaBottleneck, _keys: object = None) -> None:
    """Set the last layer of the residual branch to 0, so that the branch adds 0.

    This is also a load_state_dict hook, because a checkpoint may hold other values.
    """
    last = block.conv3 if block.conv3.norm is None else block.conv3.norm
    for name, tensor in (*last.named_parameters(recurse=False), *last.named_buffers()):
        if name in ("weight", "bias"):
            nn.init.zeros_(tensor)


def _lambda_pool(side: int, stride: int) -> nn.AvgPool2d:
    if side == 2:
        # As in timm, but rounded up: at odd sizes timm's pooling does not fit its shortcut.
        return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    # Paper: "3x3 average-pooling with stride 2 after the lambda layers ... in place of the
    # strided convolution".
    return nn.AvgPool2d(3, stride, padding=1)
