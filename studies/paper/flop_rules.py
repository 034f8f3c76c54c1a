"""Formulas for the multiply-adds of a lambda layer by the conventions that papers may follow.

The formulas count the sums of LambdaNetworks (arXiv:2102.08602, section 3) as they are written
there. ``lambda_det.analysis`` counts by one of these conventions, :data:`PLAIN`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from lambda_det.analysis.flops import count_flops, lambda_layers, recorded_sizes, total_flops
from lambda_det.layers import LambdaLayer

IMAGE = 224
WINDOWS = ("full", "inside", "clipped")
ORDERS = ("lambda_first", "query_first")


@dataclass(frozen=True)
class FlopRule:
    """A convention for counting FLOPs.

    Attributes:
        per_multiply_add: FLOPs of one multiply-add, 1 (as in fvcore) or 2.
        window: the context positions that are counted for each query of a local position lambda.
            ``"full"``: the whole window, also where it extends beyond the feature map, as
            convolutions are usually counted. ``"inside"``: only positions inside the feature map.
            ``"clipped"``: the whole window, but at most as many rows and columns as the feature map
            has. For a global scope, every position of the feature map is counted once.
        order: the order of the products. ``"lambda_first"``: embedding times value, then times
            query. ``"query_first"``: query times embedding, then times value.
    """

    per_multiply_add: int = 1
    window: str = "full"
    order: str = "lambda_first"


PLAIN = FlopRule()
"""One FLOP per multiply-add, full windows. fvcore counts the ``"conv"`` back end like this."""

PAPER = FlopRule(per_multiply_add=2, window="clipped")
"""The rule that reproduces the paper's published FLOPs (see ``flop_reading.py``). The
paper's feature maps are square, so they cannot tell whether rows and columns are clipped apart."""


@dataclass(frozen=True)
class LambdaShape:
    """The sizes of a lambda layer that its FLOPs depend on, named as in section 3 of the paper.

    Attributes:
        d: number of input channels.
        k: query depth.
        h: number of heads.
        u: intra-depth.
        v: value channels per head.
        window: (rows, columns) of the position lambda; None = global scope.
        content: whether the layer has a content lambda.
        position: whether the layer has a position lambda.
        bias: whether the layer has a position bias.
    """

    d: int
    k: int
    h: int
    u: int
    v: int
    window: tuple[int, int] | None
    content: bool = True
    position: bool = True
    bias: bool = False

    @classmethod
    def of(cls, layer: LambdaLayer) -> LambdaShape:
        """Return the sizes of ``layer``."""
        is_local = layer.position and layer.scope != "global"
        return cls(
            d=layer.in_channels,
            k=layer.query_depth,
            h=layer.num_heads,
            u=layer.intra_depth,
            v=layer.out_channels // layer.num_heads,
            window=tuple(layer.embedding.shape[-2:]) if is_local else None,
            content=layer.content,
            position=layer.position,
            bias=layer.position_bias is not None,
        )

    def projections(self, height: int, width: int) -> int:
        """Count the multiply-adds of the 1x1 convolutions to queries, keys and values.

        Args:
            height, width: of the feature map, in positions.
        """
        keys = self.u * self.k if self.content else 0
        return height * width * self.d * (self.h * self.k + keys + self.u * self.v)

    def sums(self, height: int, width: int, rule: FlopRule = PLAIN) -> Counter[str]:
        """Count the multiply-adds of the lambdas of one image and of applying them to the queries.

        Args:
            height, width: of the feature map, in positions.
            rule: convention; its ``per_multiply_add`` is not used.

        Returns:
            Counts under ``content_lambda``, ``position_lambda`` and ``position_bias``, as far as
            the layer has these parts.
        """
        counts: Counter[str] = Counter()
        positions = height * width
        apply = positions * self.h * self.k * self.v
        if self.content:
            counts["content_lambda"] = positions * self.u * self.k * self.v + apply
        if self.position:
            pairs = query_context_pairs(height, width, self.window, rule.window)
            if rule.order == "lambda_first":
                counts["position_lambda"] = pairs * self.u * self.k * self.v + apply
            else:
                counts["position_lambda"] = pairs * self.u * self.h * (self.k + self.v)
        if self.bias:
            counts["position_bias"] = positions * self.h * self.k
        return counts


def query_context_pairs(
    height: int, width: int, window: tuple[int, int] | None, counted: str
) -> int:
    """Count the pairs of a query and a context position in a position lambda.

    Args:
        height, width: of the feature map, in positions.
        window: (rows, columns), both odd; None = global scope.
        counted: which positions of the window are counted, see :class:`FlopRule`.
    """
    if window is None:
        return (height * width) ** 2
    pairs = 1
    for side, reach in zip((height, width), window, strict=True):
        if counted == "full":
            pairs *= side * reach
        elif counted == "clipped":
            pairs *= side * min(side, reach)
        else:
            offsets = range(-(reach // 2), reach // 2 + 1)
            pairs *= sum(max(0, side - abs(offset)) for offset in offsets)
    return pairs


def totals_by_rule(model: nn.Module, *rules: FlopRule) -> dict[FlopRule, int]:
    """Count the FLOPs of one forward pass of a model on the meta device by several rules.

    The image has 224 x 224 pixels.
    """
    with recorded_sizes(model) as sizes:
        total = total_flops(count_flops(model, torch.empty(1, 3, IMAGE, IMAGE, device="meta")))
    totals = {}
    for rule in rules:
        counts = total
        for name, layer in lambda_layers(model).items():
            shape = LambdaShape.of(layer)
            for _, _, height, width in sizes[name]:
                by_rule, plain = (shape.sums(height, width, r).total() for r in (rule, PLAIN))
                counts += by_rule - plain
        totals[rule] = counts * rule.per_multiply_add
    return totals
