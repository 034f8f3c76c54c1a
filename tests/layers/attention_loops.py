"""The layers of lambda_det/layers/attention.py as loops over positions, in float64.

Written from the definitions in the papers: it shares no code with lambda_det.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn


def attention_loop(kind: str, layer: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The output of a layer for x (N, C, H, W); ``mask`` (N, H, W) is True in the padding."""
    images = x.detach().double().numpy()
    outputs = []
    for n, image in enumerate(images):
        inside = np.ones(image.shape[1:], bool) if mask is None else ~mask[n].numpy()
        outputs.append(_LOOPS[kind](layer, np.where(inside, image, 0.0), inside))
    return torch.from_numpy(np.stack(outputs))


def _array(parameter: Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def _project(convolution: nn.Conv2d, image: np.ndarray) -> np.ndarray:
    return np.einsum("oc,cyx->oyx", _array(convolution.weight)[:, :, 0, 0], image)


def _heads(layer: nn.Module, image: np.ndarray) -> tuple[np.ndarray, ...]:
    height, width = image.shape[1:]
    return tuple(
        _project(convolution, image).reshape(layer.num_heads, -1, height, width)
        for convolution in (layer.query, layer.key, layer.value)
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _clipped(table: Tensor, offset: int) -> np.ndarray:
    """The embedding (1, offsets, d) of an offset; beyond the table that at its border."""
    entries = _array(table)[0]
    middle = len(entries) // 2
    return entries[min(max(offset, -middle), middle) + middle]


def _attend(query, key, value, keys_of, embedding) -> np.ndarray:
    """Attention of each position to those that ``keys_of(y, x)`` lists."""
    heads, depth, height, width = query.shape
    output = np.zeros((heads, value.shape[1], height, width))
    for h, y, x in itertools.product(range(heads), range(height), range(width)):
        places = keys_of(y, x)
        if not places:
            continue
        q = query[h, :, y, x]
        logits = [
            q @ (key[h, :, a, b] + embedding(h, a - y, b - x)) / np.sqrt(depth) for a, b in places
        ]
        for weight, (a, b) in zip(_softmax(np.array(logits)), places, strict=True):
            output[h, :, y, x] += weight * value[h, :, a, b]
    return output.reshape(-1, height, width)


def _global(layer, image, inside) -> np.ndarray:
    everywhere = list(zip(*np.nonzero(inside), strict=True))
    return _attend(
        *_heads(layer, image),
        lambda y, x: everywhere,
        lambda h, dy, dx: _clipped(layer.rows, dy) + _clipped(layer.columns, dx),
    )


def _augmented(layer, image, inside) -> np.ndarray:
    weight = _array(layer.convolution.weight)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    height, width = image.shape[1:]
    convolved = np.zeros((len(weight), height, width))
    for y, x in itertools.product(range(height), range(width)):
        convolved[:, y, x] = np.tensordot(weight, padded[:, y : y + 3, x : x + 3], axes=3)
    return np.concatenate([convolved, _project(layer.projection, _global(layer, image, inside))])


def _axial(layer, image, inside) -> np.ndarray:
    def column(y, x):
        return [(a, x) for a in range(len(inside)) if inside[a, x]]

    def row(y, x):
        return [(y, b) for b in range(inside.shape[1]) if inside[y, b]]

    first, second = layer.along_columns, layer.along_rows
    image = _attend(*_heads(first, image), column, lambda h, dy, dx: _clipped(first.offsets, dy))
    image = np.where(inside, image, 0.0)
    return _attend(*_heads(second, image), row, lambda h, dy, dx: _clipped(second.offsets, dx))


def _local(layer, image, inside) -> np.ndarray:
    reach = layer.scope // 2
    rows, columns = _array(layer.rows), _array(layer.columns)

    def window(y, x):
        return [
            (a, b)
            for a in range(max(0, y - reach), min(len(inside), y + reach + 1))
            for b in range(max(0, x - reach), min(inside.shape[1], x + reach + 1))
            if inside[a, b]
        ]

    def embedding(h, dy, dx):
        return np.concatenate([rows[h, dy + reach], columns[h, dx + reach]])

    return _attend(*_heads(layer, image), window, embedding)


def _linear(layer, image, inside) -> np.ndarray:
    query, key, value = _heads(layer, image)
    output = np.zeros_like(value)
    for h in range(layer.num_heads):
        gathered = np.zeros((query.shape[1], value.shape[1]))
        for k in range(query.shape[1]):
            weights = _softmax(key[h, k][inside])
            for weight, (y, x) in zip(weights, zip(*np.nonzero(inside), strict=True), strict=True):
                gathered[k] += weight * value[h, :, y, x]
        for y, x in np.ndindex(*inside.shape):
            output[h, :, y, x] = _softmax(query[h, :, y, x]) @ gathered
    return output.reshape(-1, *inside.shape)


def _double(layer, image, inside) -> np.ndarray:
    return _project(layer.projection, _linear(layer, image, inside))


def _depthwise(layer, image, inside) -> np.ndarray:
    weight = _array(layer.convolution.weight)[:, 0]
    reach = layer.scope // 2
    output = np.zeros_like(image)
    for y, x in np.ndindex(*inside.shape):
        for a, b in np.ndindex(*inside.shape):
            if abs(a - y) <= reach and abs(b - x) <= reach:
                output[:, y, x] += weight[:, a - y + reach, b - x + reach] * image[:, a, b]
    return output


_LOOPS = {
    "global_attention": _global,
    "axial_attention": _axial,
    "local_attention": _local,
    "linear_attention": _linear,
    "double_attention": _double,
    "attention_augmented": _augmented,
    "depthwise": _depthwise,
}
