"""The tensors that the lambda layers of a network compute for one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lambda_det.analysis import flops
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer


@dataclass(frozen=True)
class Grid:
    """The places of a feature map's positions in the image.

    Attributes:
        stride: distance in pixels between two positions.
        offset: distance in pixels of position 0 from pixel 0. A strided convolution is centred on
            even pixels, and the shortcut's 2 x 2 pooling half a pixel further. If a block has such
            a shortcut, its offset is taken.
    """

    stride: int
    offset: float = 0.0

    def pixel(self, index: int) -> float:
        """The centre, in pixels, of a position along one axis."""
        return self.stride * index + self.offset

    def position(self, pixel: tuple[float, float], size: Sequence[int]) -> tuple[int, int]:
        """The position in a map of ``size`` (H, W) whose centre is nearest to a pixel."""
        return tuple(
            min(max(0, round((place - self.offset) / self.stride)), side - 1)
            for place, side in zip(pixel, size, strict=True)
        )


@dataclass(frozen=True)
class LambdaView:
    """The tensors of one lambda layer for one image; H and W are the sides of the layer's input.

    Attributes:
        name: name of its block, such as ``res4.5`` (the sixth block of the stage).
        grid: grid of the layer's input.
        query: (h, k, H, W), after the layer's normalisation.
        value: (u, v, H, W), after the layer's normalisation.
        key_weights: (u, k, H, W), the normalised keys; None if the layer has no content lambda.
        embedding: (k, u, rh, rw); None if the layer has no position lambda.
    """

    name: str
    grid: Grid
    query: Tensor
    value: Tensor
    key_weights: Tensor | None
    embedding: Tensor | None

    @property
    def content_lambda(self) -> Tensor | None:
        """(k, v): the sum over u and positions of key weight times value (paper, section 3.1)."""
        if self.key_weights is None:
            return None
        return torch.einsum("ukyx,uvyx->kv", self.key_weights, self.value)

    @property
    def attended(self) -> float | None:
        """Effective number of positions of a key: the exponential of its entropy, averaged.

        It is between 1 (one position) and H * W (all positions alike). It is None if the keys are
        not a distribution, that is, if ``key_normalizer`` is not the softmax.
        """
        if self.key_weights is None or (self.key_weights < 0).any():
            return None
        weights = self.key_weights.flatten(2).double()
        if not torch.allclose(weights.sum(-1), weights.new_ones(()), atol=1e-3):
            return None
        return float(torch.special.entr(weights).sum(-1).exp().mean())

    def position_maps(self, row: int, column: int) -> Tensor | None:
        """The weights that the query at a position gives to the values at all positions.

        A weight is the sum over k of q[h, k] E[k, u, offset], and zero outside of the window. The
        sum over u and positions of weight times value is the position lambda's output there.

        Args:
            row, column: the position of the query.

        Returns:
            (h, u, H, W); None if the layer has no position lambda.

        Raises:
            InputError: the position is outside of the map.
        """
        height, width = self.query.shape[-2:]
        if not (0 <= row < height and 0 <= column < width):
            raise InputError(
                f"position {row}, {column}: {self.name} has {height} x {width} positions"
            )
        if self.embedding is None:
            return None
        rows, columns = (side // 2 for side in self.embedding.shape[-2:])
        window = torch.einsum("hk,kuyx->huyx", self.query[:, :, row, column], self.embedding)
        maps = window.new_zeros(*window.shape[:2], height, width)
        top, bottom = max(0, row - rows), min(height, row + rows + 1)
        left, right = max(0, column - columns), min(width, column + columns + 1)
        maps[..., top:bottom, left:right] = window[
            ...,
            top - row + rows : bottom - row + rows,
            left - column + columns : right - column + columns,
        ]
        return maps


def grids(backbone: nn.Module) -> dict[str, Grid]:
    """The grids of the inputs of blocks (``res4.5``) and of the outputs of stages (``res4``)."""
    grid, found = Grid(backbone.stem.stride), {}
    for stage, blocks in zip(backbone.stage_names, backbone.stages, strict=True):
        for index, block in enumerate(blocks):
            found[f"{stage}.{index}"] = grid
            pool = getattr(block, "shortcut_pool", None)
            shift = 0.0 if pool is None else grid.stride * (pool.kernel_size - 1) / 2
            grid = Grid(grid.stride * block.stride, grid.offset + shift)
        found[stage] = grid
    return found


def lambda_layers(backbone: nn.Module) -> dict[str, LambdaLayer]:
    """Map from the name of a block to its lambda layer, in the order of the network."""
    layers = flops.lambda_layers(backbone)
    return {name.removesuffix(".lambda_layer"): layer for name, layer in layers.items()}


def choose_layers(
    layers: Mapping[str, object], wanted: Sequence[str] | None, network: str
) -> list[str]:
    """Choose blocks with a lambda layer by name, or the last one of each stage.

    Args:
        layers: the layers by name, as :func:`lambda_layers` returns them.
        wanted: names such as ``res4.5``, also with the model's prefix or the suffix
            ``.lambda_layer``; None takes the last layer of each stage.
        network: name of the network, for the message.

    Returns:
        Keys of ``layers``.

    Raises:
        InputError: the network has no lambda layers, or not the wanted one.
    """
    if not layers:
        raise InputError(f"{network} has no lambda layers, so there is nothing to plot")
    if not wanted:
        return list({name.partition(".")[0]: name for name in layers}.values())
    chosen = []
    for word in wanted:
        bare = word.removesuffix(".lambda_layer")
        name = next((n for n in layers if bare == n or bare.endswith(f".{n}")), None)
        if name is None:
            raise InputError(f"--layers {word}: lambda layers are in {', '.join(layers)}")
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def view_layers(backbone: nn.Module, image: Tensor, names: Sequence[str]) -> dict[str, LambdaView]:
    """Run a backbone on one image and compute the tensors of some of its lambda layers.

    Args:
        backbone: the backbone in evaluation mode.
        image: (1, C, H, W), normalised input of the backbone.
        names: keys of :func:`lambda_layers`.
    """
    layers = lambda_layers(backbone)
    inputs: dict[str, Tensor] = {}
    hooks = [
        layers[name].register_forward_pre_hook(
            lambda _layer, given, name=name: inputs.__setitem__(name, given[0])
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            backbone(image)
            places = grids(backbone)
            return {n: _view(n, layers[n], places[n], inputs[n]) for n in names}
    finally:
        for hook in hooks:
            hook.remove()


def _view(name: str, layer: LambdaLayer, grid: Grid, x: Tensor) -> LambdaView:
    """Compute what ``LambdaLayer.forward`` computes first, for one image without padding."""
    query = layer.query_norm(layer.query(x))[0].unflatten(0, (layer.num_heads, -1))
    value = layer.value_norm(layer.value(x))[0].unflatten(0, (layer.intra_depth, -1))
    if layer.query_normalizer == "softmax":
        query = query.softmax(dim=1)
    weights = None
    if layer.content:
        key = layer.key(x).unflatten(1, (layer.intra_depth, -1)).flatten(-2)
        weights = layer._normalize_key(key, None)[0].unflatten(-1, x.shape[-2:])
    embedding = layer.embedding.detach() if layer.position else None
    return LambdaView(name, grid, query, value, weights, embedding)
