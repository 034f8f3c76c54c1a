"""Changes that fit a file's tensors to a model, and the comparison of the two."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from torch import Tensor
from torch.nn import functional as F

from lambda_det.checkpoint.coverage import Coverage, Shape, measure

logger = logging.getLogger(__name__)

_EMBEDDING = "lambda_layer.embedding"
_LAST_NORM = "conv3.norm.weight"
# The tensors without which the middle layer of a block is random. A missing position_bias, for
# example, does not make the whole layer random.
_MIDDLE = re.compile(
    r"(res\d\.\d+\.)(?:lambda_layer\.(?:embedding|query\.weight|value\.weight)|conv2\.weight)"
)
# A layer of another kind, whose names are its own, is random if the file has none of them.
_OTHER = re.compile(r"(res\d\.\d+\.)spatial_layer\..+")


def fit(
    tensors: dict[str, Tensor],
    shapes: Mapping[str, Shape],
    trainable: Collection[str],
    *,
    as_identity: bool,
) -> Coverage:
    """Fit the tensors of a file to a model, and compare the two.

    Position embeddings with smaller windows are padded with zeros to the model's window. The padded
    layer computes exactly the same function.

    Args:
        tensors: the file's, under bare names; smaller embeddings in it are replaced.
        shapes: shapes of the model's tensors, by bare name.
        trainable: bare names of the model's trainable parameters. Buffers must not be among them: a
            frozen norm that is set to zero would stay at zero.
        as_identity: whether the last norm's weight is to be set to zero (``Coverage.kept_zero``) in
            the blocks whose middle layer, the lambda layer or the 3x3 convolution, is not in the
            file. Their random middle layer then does not change the features: the block starts as
            its shortcut, and training increases the weight.
    """
    enlarged = [name for name in tensors if _is_smaller(name, tensors[name], shapes.get(name))]
    for name in enlarged:
        rows, columns = _window_difference(shapes[name], tensors[name])
        tensors[name] = F.pad(tensors[name], (columns // 2,) * 2 + (rows // 2,) * 2)
    if enlarged:
        logger.info(
            "%d position embeddings were padded with zeros to the model's window %s (first: %s)",
            len(enlarged), "x".join(map(str, shapes[enlarged[0]][2:])), enlarged[0],
        )  # fmt: skip
    file_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    kept = _last_norms_of_random_blocks(tensors, trainable) if as_identity else []
    return measure(shapes, file_shapes, kept_zero=kept)


def _is_smaller(name: str, tensor: Tensor, shape: Shape | None) -> bool:
    if not name.endswith(_EMBEDDING) or shape is None or tensor.dim() != 4:
        return False
    rows, columns = _window_difference(shape, tensor)
    same = tuple(tensor.shape[:2]) == tuple(shape[:2])
    return same and min(rows, columns) >= 0 < max(rows, columns) and not (rows | columns) % 2


def _window_difference(shape: Shape, tensor: Tensor) -> tuple[int, int]:
    return shape[2] - tensor.shape[2], shape[3] - tensor.shape[3]


def _last_norms_of_random_blocks(tensors: Mapping[str, Tensor], model: Collection[str]) -> list:
    blocks = {m[1] for name in model if name not in tensors and (m := _MIDDLE.fullmatch(name))}
    others = [(m[1], name in tensors) for name in model if (m := _OTHER.fullmatch(name))]
    blocks |= {block for block, _ in others} - {block for block, is_there in others if is_there}
    return [
        name
        for name in model
        if name.endswith(f".{_LAST_NORM}")
        and name.removesuffix(_LAST_NORM) in blocks
        and name in tensors
    ]
