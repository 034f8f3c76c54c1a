"""Changes that fit a file's tensors to a model, and which tensors may keep random values."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_NOT_IN_RESNETS = re.compile(r"res[2-5]\.\d+\.(?:lambda_layer|lambda_norm|se)\.")
_EMBEDDING = "lambda_layer.embedding"
_LAST_NORM = "conv3.norm.weight"
# The tensors without which the middle layer of a block is random. A missing position_bias, for
# example, does not make the whole layer random.
_MIDDLE = re.compile(
    r"(res\d\.\d+\.)(?:lambda_layer\.(?:embedding|query\.weight|value\.weight)|conv2\.weight)"
)


def may_stay_random(name: str) -> bool:
    """Return whether an ordinary ResNet does not have this tensor: lambda layers, ``lambda_norm``
    and squeeze-and-excitation."""
    return _NOT_IN_RESNETS.match(name) is not None


def last_norms_of_random_blocks(
    tensors: Mapping[str, Tensor], model_names: Collection[str]
) -> list[str]:
    """Return the last norms' weights in the blocks whose middle layer is not in the file.

    The middle layer is the lambda layer or the 3x3 convolution. If the weight of the last norm is
    set to zero, the random middle layer does not change the features: the block starts as its
    shortcut, and training then increases the weight.

    Args:
        tensors: the file's, under bare names.
        model_names: bare names of the model's trainable parameters. Buffers must not be among
            them: a frozen norm that is set to zero would stay at zero.
    """
    blocks = {
        match[1]
        for name in model_names
        if name not in tensors and (match := _MIDDLE.fullmatch(name))
    }
    return [
        name
        for name in model_names
        if name.endswith(f".{_LAST_NORM}")
        and name.removesuffix(_LAST_NORM) in blocks
        and name in tensors
    ]


def enlarge_embeddings(tensors: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Pad position embeddings with smaller windows with zeros to the model's window.

    The padded layer computes exactly the same function.

    Args:
        tensors: the file's, under bare names; smaller embeddings in it are replaced.
        shapes: shapes of the model's tensors, by name.
    """
    enlarged = []
    for name, tensor in tensors.items():
        shape = shapes.get(name)
        if not name.endswith(_EMBEDDING) or shape is None or tensor.dim() != 4:
            continue
        rows, columns = (new - old for new, old in zip(shape[2:], tensor.shape[2:], strict=True))
        same = tuple(tensor.shape[:2]) == tuple(shape[:2])
        if same and min(rows, columns) >= 0 < max(rows, columns) and not (rows | columns) % 2:
            enlarged.append(name)
            tensors[name] = F.pad(tensor, (columns // 2,) * 2 + (rows // 2,) * 2)
    if enlarged:
        logger.info(
            "%d position embeddings were padded with zeros to the model's window %s (first: %s)",
            len(enlarged), "x".join(map(str, shapes[enlarged[0]][2:])), enlarged[0],
        )  # fmt: skip
