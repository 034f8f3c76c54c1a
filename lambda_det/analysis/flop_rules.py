"""Closed formulas for the multiply-adds of a lambda layer, and the rules to count them by.

They count the sums of LambdaNetworks (arXiv:2102.08602, section 3) as written, whatever back end
computes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer

WINDOWS = ("full", "inside", "clipped")
ORDERS = ("lambda_first", "query_first")


@dataclass(frozen=True)
class FlopRule:
    """What counts as how many FLOPs.

    Attributes:
        per_multiply_add: 1 (as in fvcore) or 2.
        window: context positions that a query of a local position lambda is charged for.
            ``"full"``: the whole window, also where it hangs over the edge of the image, as a
            convolution is usually counted; ``"inside"``: positions inside the image only;
            ``"clipped"``: the whole window, but no more rows and columns than the image has. A
            global scope is charged for every position of the image, once.
        order: ``"lambda_first"``: sum embedding x value, then apply to the queries;
            ``"query_first"``: query x embedding, then times value (the swapped order).
    """

    per_multiply_add: int = 1
    window: str = "full"
    order: str = "lambda_first"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("per_multiply_add", (1, 2)),
            ("window", WINDOWS),
            ("order", ORDERS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}={getattr(self, name)!r}: expected one of "
                    f"{', '.join(map(repr, allowed))}"
                )


PLAIN = FlopRule()
"""Multiply-adds, a local window in full: what fvcore counts for the ``"conv"`` back end."""

PAPER = FlopRule(per_multiply_add=2, window="clipped")
"""The reading of the paper's FLOPs that fits its published numbers (``flop_reading.py``). Its
feature maps are square: they do not tell clipped rows and columns from a clipped number."""


@dataclass(frozen=True)
class LambdaShape:
    """The sizes of a lambda layer that its cost depends on, named as in the paper's section 3.

    Attributes:
        d: channels of the input.
        k: query depth.
        h: heads.
        u: intra-depth.
        v: value channels per head.
        window: (rows, columns) of the position lambda, None for a global scope.
        content, position, bias: parts that the layer has.
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
        """The sizes of ``layer``."""
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
        """Multiply-adds of the 1x1 convolutions to queries, keys and values."""
        keys = self.u * self.k if self.content else 0
        return height * width * self.d * (self.h * self.k + keys + self.u * self.v)

    def sums(self, height: int, width: int, rule: FlopRule = PLAIN) -> Counter[str]:
        """Multiply-adds of content and position lambdas of one image, queries applied.

        Returns:
            Counts under ``content_lambda``, ``position_lambda`` and ``position_bias``, for those
            that the layer has. ``rule.per_multiply_add`` plays no part.
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
    height: int, width: int, window: tuple[int, int] | None, charged: str
) -> int:
    """Pairs of a query and a context position that a position lambda is charged for.

    Args:
        height, width: of the feature map.
        window: (rows, columns), both odd; None = global.
        charged: see :attr:`FlopRule.window`.
    """
    if window is None:
        return (height * width) ** 2
    pairs = 1
    for side, reach in zip((height, width), window, strict=True):
        if charged == "full":
            pairs *= side * reach
        elif charged == "clipped":
            pairs *= side * min(side, reach)
        else:
            offsets = range(-(reach // 2), reach // 2 + 1)
            pairs *= sum(max(0, side - abs(offset)) for offset in offsets)
    return pairs
