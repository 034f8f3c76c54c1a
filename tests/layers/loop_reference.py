"""The lambda layer as explicit loops over Python numbers and float64 arrays (arXiv:2102.08602).

Written from the paper's definitions alone: it shares no code with lambda_det.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn


def position_loop(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """y[n,h,v,p] = sum_k q[n,h,k,p] sum_u sum_delta E[k,u,delta] V[n,u,v,p+delta], one by one."""
    batch, heads, depth, height, width = query.shape
    _, intra_depth, channels, _, _ = value.shape
    rows, columns = embedding.shape[-2:]
    q, v, e = (tensor.detach().double().tolist() for tensor in (query, value, embedding))
    output = torch.zeros(batch, heads, channels, height, width, dtype=torch.float64)
    for n, y, x in itertools.product(range(batch), range(height), range(width)):
        for c, k in itertools.product(range(channels), range(depth)):
            position_lambda = 0.0
            for u, dy, dx in itertools.product(
                range(intra_depth),
                range(-(rows // 2), rows // 2 + 1),
                range(-(columns // 2), columns // 2 + 1),
            ):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    weight = e[k][u][dy + rows // 2][dx + columns // 2]
                    position_lambda += weight * v[n][u][c][y + dy][x + dx]
            for h in range(heads):
                output[n, h, c, y, x] += q[n][h][k][y][x] * position_lambda
    return output


def normalise(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """What ``module`` (batch, frozen, group or no normalisation) makes of x (N, C, H, W)."""
    if isinstance(module, nn.Identity):
        return x
    weight = module.weight.detach().double().numpy()[None, :, None, None]
    bias = module.bias.detach().double().numpy()[None, :, None, None]
    if isinstance(module, nn.GroupNorm):
        groups = x.reshape(x.shape[0], module.num_groups, -1)
        mean, variance = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
        return ((groups - mean) / np.sqrt(variance + module.eps)).reshape(x.shape) * weight + bias
    if module.training and isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = module.running_mean.numpy(), module.running_var.numpy()
    mean, variance = mean[None, :, None, None], variance[None, :, None, None]
    return (x - mean) / np.sqrt(variance + module.eps) * weight + bias


def layer_loop(layer: nn.Module, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """The whole layer, position by position, from its public attributes and parameters.

    Channel order: query (h, k), key (u, k), value (u, v), output (h, v).
    """
    heads, depth, intra = layer.num_heads, layer.query_depth, layer.intra_depth
    channels = layer.out_channels // heads
    image = x.detach().double().numpy()
    batch, _, height, width = image.shape
    if padding_mask is not None:  # what the padding holds does not exist: it reads as zero
        image = np.where(padding_mask.numpy()[:, None], 0.0, image)

    def project(conv: nn.Conv2d) -> np.ndarray:
        weight = conv.weight.detach().double().numpy()[:, :, 0, 0]
        return np.tensordot(image, weight, axes=(1, 1)).transpose(0, 3, 1, 2)

    queries = normalise(layer.query_norm, project(layer.query))
    values = normalise(layer.value_norm, project(layer.value))
    keys = project(layer.key) if layer.content else None
    embedding = layer.embedding.detach().double().numpy() if layer.position else None
    output = np.zeros((batch, layer.out_channels, height, width))

    for n in range(batch):
        inside = [
            (y, x)
            for y, x in itertools.product(range(height), range(width))
            if padding_mask is None or not padding_mask[n, y, x]
        ]

        def value_at(u: int, y: int, x: int, n: int = n) -> np.ndarray:
            return values[n, u * channels : (u + 1) * channels, y, x]

        content_lambda = np.zeros((depth, channels))
        if layer.content:
            for u, k in itertools.product(range(intra), range(depth)):
                key = np.array([keys[n, u * depth + k, y, x] for y, x in inside])
                if layer.key_normalizer == "softmax":
                    key = np.exp(key - key.max()) / np.exp(key - key.max()).sum()
                elif layer.key_normalizer == "l2":
                    key = key / np.sqrt((key**2).sum())
                for weight, (y, x) in zip(key, inside, strict=True):
                    content_lambda[k] += weight * value_at(u, y, x)

        for y, x in itertools.product(range(height), range(width)):
            total_lambda = content_lambda.copy()
            if layer.position:
                middle_y, middle_x = (side // 2 for side in embedding.shape[-2:])
                for my, mx in inside:
                    dy, dx = my - y, mx - x
                    if abs(dy) <= middle_y and abs(dx) <= middle_x:
                        for k, u in itertools.product(range(depth), range(intra)):
                            weight = embedding[k, u, middle_y + dy, middle_x + dx]
                            total_lambda[k] += weight * value_at(u, my, mx)
                if getattr(layer, "position_bias", None) is not None:
                    total_lambda += layer.position_bias.detach().double().numpy()[:, None]
            for h in range(heads):
                query = queries[n, h * depth : (h + 1) * depth, y, x]
                if layer.query_normalizer == "softmax":
                    query = np.exp(query - query.max()) / np.exp(query - query.max()).sum()
                output[n, h * channels : (h + 1) * channels, y, x] = query @ total_lambda
    return torch.from_numpy(output)


def randomise_norms(layer: nn.Module) -> None:
    """Weights, biases and running statistics away from 1 and 0, so that each of them matters."""
    for norm in (layer.query_norm, layer.value_norm):
        for name, tensor in norm.state_dict().items():
            if name in ("weight", "running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif name in ("bias", "running_mean"):
                tensor.copy_(torch.randn_like(tensor))
