"""The layers that LambdaNetworks (arXiv:2102.08602, tables 3 and 4) compares with the lambda layer.

Each maps (N, C, H, W) to (N, C, H, W) and can stand where a lambda layer stands; :data:`KINDS`
lists them. An argument that is out of range raises InputError with its name and what is allowed.

Of the paper's three local kinds, ``local_attention`` is Ramachandran's; Hu's and Zhao's are layers
of networks of their own. Of its two linear kinds, ``linear_attention`` is Shen's and
``double_attention`` Chen's. Its channel attention is squeeze-and-excitation behind a 3x3
convolution, for which the family has SE stages.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from lambda_det.errors import InputError
from lambda_det.layers.content_lambda import content_lambda
from lambda_det.layers.lambda_layer import LambdaLayer, window_of
from lambda_det.layers.precision import at_least_float32, without_autocast
from lambda_det.layers.recording import is_exporting
from lambda_det.layers.relative_attention import (
    Heads,
    Lines,
    SpatialLayer,
    attend,
    check_positive,
    check_window,
    new_table,
    offset_logits,
    out_of_blocks,
    projection,
    to_blocks,
    window_logits,
)


class GlobalAttention(Heads):
    """Attention of each position to all, with relative positions. It stores (positions x positions)
    numbers for each image and head.

    The logits are q (k + e_row + e_column) / d^1/2; all heads share the embeddings
    (arXiv:1904.09925, section 3.1; BoTNet, arXiv:2101.11605, puts this in the place of a
    bottleneck's 3x3 convolution). The paper's memory table has it as "global self-attention".

    Args:
        in_channels: number of channels C.
        num_heads: h; with 8 the paper's formula gives about the 120 GB of its memory table.
        query_depth: d, channels of one query; None = C / h.
        scope: number of row offsets, and of column offsets, that have an embedding of their own, an
            odd number; offsets beyond share the last one (arXiv:1803.02155, section 3.2).
            ``"global"`` = each has its own.
        max_size: largest (H, W) of the input for a global scope.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_heads: int = 8,
        query_depth: int | None = None,
        scope: int | str = 23,
        max_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_channels, num_heads, query_depth)
        self._add_tables(scope, max_size)

    def _add_tables(self, scope: int | str, max_size: tuple[int, int] | None) -> None:
        self.scope, self.max_size = scope, max_size
        rows, columns = window_of(scope, max_size)
        self.rows = new_table(rows, self.query_depth)
        self.columns = new_table(columns, self.query_depth)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        query, key, value = self.of_heads(x)
        rows = offset_logits(query, self.rows * self.scale, 3, x.shape[2])
        columns = offset_logits(query, self.columns * self.scale, 4, x.shape[3])
        return attend(query, key, value, rows, columns, outside, x.shape[2:])

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        return self.count_attention(height * width, height * width, height + width)


class AttentionAugmented(GlobalAttention):
    """A 3x3 convolution and :class:`GlobalAttention` beside each other (arXiv:1904.09925, section
    3.2): the output's last channels are those of the attention, which a 1x1 convolution mixes.

    Args:
        in_channels: number of channels C. The attention has C / 10 of them, rounded down to a
            multiple of the heads but at least one for each (upsilon = 0.1).
        num_heads: h, 8 as there.
        query_depth: d; None = C / (5 h), but at least 20 (kappa = 0.2).
        scope, max_size: as for :class:`GlobalAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_heads: int = 8,
        query_depth: int | None = None,
        scope: int | str = 23,
        max_size: tuple[int, int] | None = None,
    ) -> None:
        check_positive("num_heads", num_heads)
        values = max(num_heads, in_channels // 10 // num_heads * num_heads)
        if values >= in_channels:
            raise InputError(
                f"num_heads={num_heads}: expected fewer heads than the {in_channels} channels"
            )
        depth = max(20, in_channels // 5 // num_heads) if query_depth is None else query_depth
        Heads.__init__(self, in_channels, num_heads, depth, values)
        self._add_tables(scope, max_size)
        self.convolution = nn.Conv2d(in_channels, in_channels - values, 3, padding=1, bias=False)
        self.projection = projection(values, values)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        return torch.cat([self.convolution(x), self.projection(super()._mix(x, outside))], dim=1)


class AxialAttention(SpatialLayer):
    """Attention along the columns and then along the rows (arXiv:1912.12180, section 3), with
    relative positions of the queries as in arXiv:2003.07853, section 3.

    The paper's memory table has it as "axial self-attention"; its 4.8 GB are those of the two maps
    of 8 heads. Both attentions have projections of their own.

    Args:
        in_channels, num_heads, query_depth, scope, max_size: as for :class:`GlobalAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_heads: int = 8,
        query_depth: int | None = None,
        scope: int | str = 23,
        max_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_channels)
        self.scope, self.max_size = scope, max_size
        rows, columns = window_of(scope, max_size)
        self.along_columns = Lines(in_channels, num_heads, query_depth, rows)
        self.along_rows = Lines(in_channels, num_heads, query_depth, columns)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        size = x.shape
        x = self.along_columns.attend_along(2, x, outside, size)
        x = x if outside is None else x.masked_fill(outside, 0)
        return self.along_rows.attend_along(3, x, outside, size)

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        positions = height * width
        columns = self.along_columns.count_attention(positions, height, height)
        return columns + self.along_rows.count_attention(positions, width, width)


class LocalAttention(Heads):
    """Attention of each position to the r x r positions around it, with relative positions:
    stand-alone self-attention (Ramachandran, arXiv:1906.05909, section 2.2).

    Half of a query's channels meet the embedding of the row offset, the other half that of the
    column offset; each head has its own. Unlike there, the logits are divided by d^1/2, and
    positions outside of the image get no weight, where there they are keys of zero. Sums are taken
    in blocks of queries, with keys and values of a halo of r // 2 around them.

    Args:
        in_channels: number of channels C.
        num_heads: h, 8 as there.
        query_depth: d, channels of one query, an even number; None = C / h.
        scope: r, an odd number, 7 as there.
    """

    block = 8

    def __init__(
        self,
        in_channels: int,
        *,
        num_heads: int = 8,
        query_depth: int | None = None,
        scope: int = 7,
    ) -> None:
        super().__init__(in_channels, num_heads, query_depth)
        if self.query_depth % 2:
            raise InputError(f"query_depth={self.query_depth}: expected an even number")
        check_window(scope)
        self.scope = scope
        self.rows = new_table(scope, self.query_depth // 2, num_heads)
        self.columns = new_table(scope, self.query_depth // 2, num_heads)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        query, key, value = self.of_heads(x)
        inside = torch.ones_like(x[:, :1]) if outside is None else (~outside).to(x.dtype)
        size, halo = x.shape[2:], int(self.scope) // 2
        # torch.export takes minutes for the sizes of blocks that follow each other; blocks of one
        # position need no rounding of sizes, but more memory.
        block = self.block if torch.jit.is_tracing() or not is_exporting() else 1
        query = to_blocks(query, block, 0, size)
        key, value, inside = (
            to_blocks(tensor, block, halo, size) for tensor in (key, value, inside[:, None])
        )
        halves = query.chunk(2, dim=2)
        rows = window_logits(halves[0], self.rows * self.scale, 3, block)
        columns = window_logits(halves[1], self.columns * self.scale, 4, block)
        output = attend(query, key, value, rows, columns, inside[:, 0] == 0, (block, block))
        return out_of_blocks(output, block, x.shape[0], size)

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        return self.count_attention(height * width, int(self.scope) ** 2, int(self.scope))


class LinearAttention(Heads):
    """Efficient attention (Shen, arXiv:1812.01243, section 3.2): softmax(q) (softmax(k)^T v), with
    the softmax of queries over channels and that of keys over positions.

    With one head this is the content lambda of queries with ``query_normalizer="softmax"``.

    Args:
        in_channels: number of channels C.
        num_heads: h.
        query_depth: d, channels of one query; None = C / h.
    """

    def __init__(
        self, in_channels: int, *, num_heads: int = 8, query_depth: int | None = None
    ) -> None:
        super().__init__(in_channels, num_heads, query_depth)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        # Every head has one key and one value set: the heads are images of a batch.
        query, key, value = (t.flatten(0, 1).unsqueeze(1) for t in self.of_heads(x))
        dtype = at_least_float32(x.dtype)
        with without_autocast(x):
            query = query.softmax(dim=2, dtype=dtype).to(query.dtype)
            key = key.flatten(-2).to(dtype)
            if outside is None:
                key = key.softmax(dim=-1)
            else:
                excluded = outside.flatten(-2).repeat_interleave(self.num_heads, 0).unsqueeze(1)
                key = key.masked_fill(excluded, float("-inf")).softmax(dim=-1)
                key = key.masked_fill(excluded, 0)  # NaN for an image that is padding altogether
            output = content_lambda(query, key, value)
        return output.to(query.dtype).reshape(x.shape[0], self.value_channels, *x.shape[-2:])

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        both = 2 * height * width * self.query_depth * self.value_channels
        return Counter(linear_attention=both)


class DoubleAttention(LinearAttention):
    """Double attention, A2 (Chen, arXiv:1810.11579, section 3): features are gathered with n maps
    over the positions, and each position takes a softmax-weighted sum of what was gathered.

    This is linear attention with one head, whose values have n channels, too, and a 1x1 convolution
    back to C channels behind it. Its A, B and V are our values, keys and queries.

    Args:
        in_channels: number of channels C.
        query_depth: n; None = C / 2, with which five blocks added to a ResNet-50 give the 33.0
            million parameters of the paper's table 3 but for 0.1.
    """

    def __init__(self, in_channels: int, *, query_depth: int | None = None) -> None:
        depth = max(1, in_channels // 2) if query_depth is None else query_depth
        check_positive("query_depth", depth)
        Heads.__init__(self, in_channels, 1, depth, depth)
        self.projection = projection(depth, in_channels)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        return self.projection(super()._mix(x, outside))


class Depthwise(SpatialLayer):
    """An r x r convolution of each channel by itself, as in RepLKNet (arXiv:2203.06717) and
    ConvNeXt (arXiv:2201.03545): the control for what reach alone gives. It reaches as far as a
    lambda layer of the same scope, but its weights do not depend on the image.

    Args:
        in_channels: number of channels C.
        scope: r, an odd number; 23 as the lambda layer's.
    """

    def __init__(self, in_channels: int, *, scope: int = 23) -> None:
        super().__init__(in_channels)
        check_window(scope)
        self.scope = scope
        self.convolution = nn.Conv2d(
            in_channels, in_channels, scope, padding=scope // 2, groups=in_channels, bias=False
        )

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        return self.convolution(x)


KINDS: dict[str, type[LambdaLayer] | type[SpatialLayer]] = {
    "lambda": LambdaLayer,
    "global_attention": GlobalAttention,
    "axial_attention": AxialAttention,
    "local_attention": LocalAttention,
    "linear_attention": LinearAttention,
    "double_attention": DoubleAttention,
    "attention_augmented": AttentionAugmented,
    "depthwise": Depthwise,
}
"""Name of a layer that can stand in a bottleneck -> its class."""
