"""The base of the layers of attention.py, and attention with relative embeddings.

Functions here take queries (B, h, d, y, x) and keys and values (B, h, d, Y, X) with two axes of
positions, where B counts images, lines of images or blocks of images. The sums are those of
``torch.nn.functional.scaled_dot_product_attention``. Relative logits, and what a query must not
attend to, are its additive mask; the softmax weight of the latter is exactly 0. In inference, and
with as many query as value channels, it takes the fused kernel of a CPU. PyTorch's
flex_attention is not used: it saves something under torch.compile only, and gives no gradients on a
CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lambda_det.errors import InputError
from lambda_det.layers.lambda_layer import check_input, window_of


def projection(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution without bias that keeps the variance of its input."""
    layer = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    nn.init.normal_(layer.weight, std=in_channels**-0.5)
    return layer


def check_positive(name: str, number: int) -> None:
    """Raise InputError if an argument is below 1."""
    if number < 1:
        raise InputError(f"{name}={number}: expected a positive integer")


def check_window(scope: int | str) -> None:
    """Raise InputError if a scope is no odd positive number."""
    if scope == "global":
        raise InputError("scope='global': expected an odd positive integer")
    window_of(scope, None)


class SpatialLayer(nn.Module):
    """Base of the layers of attention.py.

    Args:
        in_channels: number of channels C of input and output.
    """

    scope: int | str | None = None
    max_size: tuple[int, int] | None = None

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        self.in_channels = self.out_channels = in_channels

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: (N, C, H, W), any H and W (with ``scope="global"`` up to ``max_size``).
            padding_mask: (N, H, W) bool, True where a position is not part of the image. The layer
                reads ``x`` as zero there and attends to no such position, so that the numbers in
                ``x`` there change no output.

        Returns:
            (N, C, H, W).

        Raises:
            InputError: the input is larger than ``max_size``, or ``padding_mask`` is not bool or
                has another shape than (N, H, W).
        """
        check_input(x, padding_mask, self.max_size if self.scope == "global" else None)
        if padding_mask is None:
            return self._mix(x, None)
        outside = padding_mask[:, None]
        return self._mix(x.masked_fill(outside, 0), outside)

    def _mix(self, x: Tensor, outside: Tensor | None) -> Tensor:
        """Compute the output of x (N, C, H, W), which is zero at ``outside`` (N, 1, H, W)."""
        raise NotImplementedError

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        """Count the multiply-adds for one image, without those of the layer's convolutions.

        They are those of the layer as it is defined, whatever computes it: a window counts in full,
        also where it extends beyond the feature map.
        """
        return Counter()


class Heads(SpatialLayer):
    """Multi-head queries, keys and values by 1x1 convolutions without bias; channel order (h, d).

    All three start from a normal distribution of the standard deviation C^-1/2, as keys and values
    of the lambda layer do: with an input of variance 1 they have a variance of 1. The lambda
    layer's queries start smaller, by the d^-1/2 by which attention divides its logits.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        query_depth: int | None,
        value_channels: int | None = None,
    ) -> None:
        super().__init__(in_channels)
        values = in_channels if value_channels is None else value_channels
        check_positive("num_heads", num_heads)
        if values % num_heads:
            raise InputError(f"num_heads={num_heads}: must divide {values} channels")
        depth = values // num_heads if query_depth is None else query_depth
        check_positive("query_depth", depth)
        self.num_heads, self.query_depth, self.value_channels = num_heads, depth, values
        self.query = projection(in_channels, num_heads * depth)
        self.key = projection(in_channels, num_heads * depth)
        self.value = projection(in_channels, values)

    @property
    def scale(self) -> float:
        """d^-1/2, by which the logits are multiplied."""
        return self.query_depth**-0.5

    def of_heads(self, x: Tensor) -> list[Tensor]:
        """Queries and keys (N, h, d, H, W) and values (N, h, v, H, W)."""
        layers = (self.query, self.key, self.value)
        return [layer(x).unflatten(1, (self.num_heads, -1)) for layer in layers]

    def count_attention(self, positions: int, window: int, offsets: int) -> Counter[str]:
        """Count the multiply-adds of attending from ``positions`` to ``window`` others each, with
        ``offsets`` relative embeddings of the whole query for each of them."""
        queries = self.num_heads * self.query_depth
        return Counter(
            attention=positions * window * (queries + self.value_channels),
            relative_positions=positions * offsets * queries,
        )

    def extra_repr(self) -> str:
        scope = "" if self.scope is None else f", scope={self.scope!r}"
        return f"heads={self.num_heads}, query_depth={self.query_depth}{scope}"


def new_table(offsets: int, depth: int, heads: int = 1) -> nn.Parameter:
    """Make the embeddings (heads, offsets, depth) of the offsets along one axis, of a variance of
    1 / depth; ``offsets`` is odd and the middle one is 0."""
    return nn.Parameter(torch.randn(heads, offsets, depth) * depth**-0.5)


def offset_logits(query: Tensor, table: Tensor, axis: int, length: int) -> Tensor:
    """Products of each query with the embedding of its offset to each position of an axis.

    An offset beyond the table takes the embedding at its border.

    Args:
        query: (B, h, d, y, x).
        table: (1 or h, offsets, d), multiplied by the scale of the logits.
        axis: 3 for offsets between rows, 4 for those between columns.
        length: size of this axis, as the layer's input has it: the exporter of ONNX files for
            detectors takes sizes behind a reshape for constants.

    Returns:
        (B, h, y, x, Y) for rows, (B, h, y, x, X) for columns.
    """
    places = torch.arange(length, device=query.device)
    middle = table.shape[1] // 2
    offsets = (places[None, :] - places[:, None]).clamp(-middle, middle) + middle
    return _products(query, table[:, offsets], axis)


def window_logits(query: Tensor, table: Tensor, axis: int, length: int) -> Tensor:
    """As :func:`offset_logits`, for queries of a block whose keys have a halo around the block as
    wide as the table reaches. Keys beyond a query's own window get a large negative number."""
    reach = table.shape[1]
    block = torch.arange(length, device=query.device)
    window = torch.arange(length + reach - 1, device=query.device)
    offsets = window[None, :] - block[:, None]
    beyond = (offsets < 0) | (offsets >= reach)
    logits = _products(query, table[:, offsets.clamp(0, reach - 1)], axis)
    shape = (length, 1, -1) if axis == 3 else (1, length, -1)
    return logits.masked_fill(beyond.view(shape), _excluded(logits.dtype) / 2)


def _products(query: Tensor, embedded: Tensor, axis: int) -> Tensor:
    own = "y" if axis == 3 else "x"
    heads = "h" if embedded.shape[0] > 1 else ""
    embedded = embedded if heads else embedded[0]
    return torch.einsum(f"bhdyx,{heads}{own}jd->bhyxj", query, embedded)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    outside: Tensor | None,
    size: Sequence[int],
) -> Tensor:
    """Average the values with softmax(q k / d^1/2 + relative logits).

    Args:
        query: (B, h, d, y, x).
        key, value: (B, h, d, Y, X) and (B, h, v, Y, X).
        rows, columns: relative logits (B, h, y, x, Y) and (B, h, y, x, X), which are divided by
            d^1/2 already; None = none.
        outside: (B, 1, Y, X) bool, True where nothing attends to. What a query without any key gets
            has no meaning, but is finite.
        size: (y, x), for the same reason as in :func:`offset_logits`.

    Returns:
        (B, h v, y, x).
    """
    bias = rows.unsqueeze(-1)
    if columns is not None:
        bias = bias + columns.unsqueeze(-2)
    bias = bias.flatten(-2).flatten(2, 3)
    if outside is not None:
        bias = bias.masked_fill(outside.flatten(2).unsqueeze(2), _excluded(bias.dtype))
    # Fused kernels take contiguous channels alone.
    sequences = (t.flatten(-2).transpose(-1, -2).contiguous() for t in (query, key, value))
    output = F.scaled_dot_product_attention(*sequences, attn_mask=bias).transpose(-1, -2)
    heads, depth = value.shape[1:3]
    return output.reshape(-1, heads * depth, *size)


def _excluded(dtype: torch.dtype) -> float:
    """A logit whose weight is exactly 0 beside any ordinary one. It is finite, so that a row of
    nothing else is no NaN, and far enough from the limit that adding to it does not overflow."""
    return torch.finfo(dtype).min / 4


def to_blocks(x: Tensor, block: int, halo: int, size: Sequence[int]) -> Tensor:
    """Cut x (N, h, d, H, W) of ``size`` (H, W) into blocks, each with a halo of its neighbours.

    Returns:
        (N * blocks, h, d, block + 2 * halo, block + 2 * halo), filled up with zeros beyond the
        border.
    """
    height, width = size
    x = F.pad(x, (halo, halo + -width % block, halo, halo + -height % block))
    side = block + 2 * halo
    if torch.jit.is_tracing():  # the exporter of ONNX files for detectors has no such unfold
        for axis, length in ((3, height), (5, width)):
            starts = torch.arange((length + -length % block) // block, device=x.device) * block
            places = starts[:, None] + torch.arange(side, device=x.device)
            x = x.index_select(axis, places.flatten()).unflatten(axis, (-1, side))
        x = x.transpose(4, 5)
    else:
        x = x.unfold(-2, side, block).unfold(-2, side, block)
    return x.permute(0, 3, 4, 1, 2, 5, 6).flatten(0, 2)


def out_of_blocks(blocks: Tensor, block: int, batch: int, size: Sequence[int]) -> Tensor:
    """Put blocks (N * blocks, C, block, block) together again: (N, C, H, W)."""
    height, width = size
    below, right = -height % block, -width % block
    x = blocks.unflatten(0, (batch, (height + below) // block, (width + right) // block))
    x = x.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)
    # Negative padding crops. torch.export would take a slice that crops nothing in its example for
    # one that never crops.
    return F.pad(x, (0, -right, 0, -below))


class Lines(Heads):
    """Attention within columns or rows, with one embedding for each offset."""

    def __init__(
        self, in_channels: int, num_heads: int, query_depth: int | None, offsets: int
    ) -> None:
        super().__init__(in_channels, num_heads, query_depth)
        self.offsets = new_table(offsets, self.query_depth)

    def attend_along(
        self, axis: int, x: Tensor, outside: Tensor | None, size: torch.Size
    ) -> Tensor:
        """Attend along an axis of x (N, C, H, W), 2 within columns or 3 within rows; ``size`` is
        (N, C, H, W)."""
        other = 5 - axis

        def lines(tensor: Tensor) -> Tensor:
            """(N, ..., H, W) -> (N * lines, ..., length, 1)."""
            return tensor.movedim(other + tensor.dim() - 4, 1).flatten(0, 1).unsqueeze(-1)

        query, key, value = map(lines, self.of_heads(x))
        outside = None if outside is None else lines(outside)
        logits = offset_logits(query, self.offsets * self.scale, 3, size[axis])
        output = attend(query, key, value, logits, None, outside, (size[axis], 1))
        output = output.reshape(size[0], size[other], -1, size[axis])
        return output.movedim(1, other)
