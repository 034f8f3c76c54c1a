"""Fitting tensors to a model, and what of a model may stay random."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

_OF_THE_FAMILY_ONLY = re.compile(r"res[2-5]\.\d+\.(?:lambda_layer|lambda_norm|se)\.")
_EMBEDDING = "lambda_layer.embedding"
_LAST_NORM = "conv3.norm.weight"
# What a middle cannot do without; a file that lacks the bias of positions, say, holds the rest.
_MIDDLE = re.compile(
    r"(res\d\.\d+\.)(?:lambda_layer\.(?:embedding|query\.weight|value\.weight)|conv2\.weight)"
)


def may_stay_random(name: str) -> bool:
    """Whether ordinary networks lack this tensor: lambda layers, their norm, SE."""
    return _OF_THE_FAMILY_ONLY.match(name) is not None


def last_norms_of_random_blocks(
    tensors: Mapping[str, Tensor], model_names: Collection[str]
) -> list[str]:
    """Weights of the last norm of blocks whose middle the file does not hold.

    That is one without its embedding, queries, values or 3x3 convolution. With the norm at zero,
    where it starts, such a block is its shortcut until training says otherwise.

    Args:
        tensors: of the file, under bare names.
        model_names: of the model's parameters, bare; without buffers, since a frozen norm could
            never leave zero again.
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
    """Pad windows of positions with zeros up to the model's: exactly the same function.

    Args:
        tensors: of the file, under bare names; smaller windows in it are replaced.
        shapes: of the model's tensors.
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
            "%d windows of positions were padded with zeros to the model's %s (first: %s)",
            len(enlarged), "x".join(map(str, shapes[enlarged[0]][2:])), enlarged[0],
        )  # fmt: skip
