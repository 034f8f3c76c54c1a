"""The lambda layer of LambdaNetworks (arXiv:2102.08602, section 3)."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lambda_det.errors import InputError, check_choice
from lambda_det.layers.content_lambda import content_lambda
from lambda_det.layers.memory_layout import guard_gradient
from lambda_det.layers.norm import Norm, make_norm
from lambda_det.layers.position_lambda import BACKEND_NAMES, position_sums
from lambda_det.layers.precision import at_least_float32, without_autocast
from lambda_det.layers.recording import is_exporting

KEY_NORMALIZERS = ("softmax", "l2", None)
QUERY_NORMALIZERS = ("softmax", None)


def is_size(size: object) -> TypeGuard[tuple[int, int]]:
    """Whether ``size`` is an (H, W) of positive integers."""
    return (
        isinstance(size, tuple | list)
        and len(size) == 2
        and all(isinstance(side, int) and side >= 1 for side in size)
    )


def window_of(scope: int | str, max_size: tuple[int, int] | None) -> tuple[int, int]:
    """The numbers of relative rows and columns that a scope covers, both odd.

    Raises:
        InputError: the scope is not odd and positive, or is global without a ``max_size``.
    """
    if scope == "global":
        if not is_size(max_size):
            raise InputError(
                f"max_size={max_size!r}: scope='global' needs the largest (H, W), both at least 1"
            )
        return (2 * max_size[0] - 1, 2 * max_size[1] - 1)
    if isinstance(scope, bool) or not isinstance(scope, int) or scope < 1 or scope % 2 == 0:
        raise InputError(f"scope={scope!r}: expected an odd positive integer or 'global'")
    return (scope, scope)


def new_embedding(
    *,
    query_depth: int = 16,
    intra_depth: int = 1,
    scope: int | str = 23,
    max_size: tuple[int, int] | None = None,
    **_other_layer_arguments: object,
) -> nn.Parameter:
    """Make the relative position embeddings (k, u, rh, rw) of a layer, drawn from N(0, 1).

    The function takes the arguments of :class:`LambdaLayer` and ignores those that do not change
    the shape of the embeddings. The window (rh, rw) has ``scope`` x ``scope`` entries. With a
    global scope it has (2H - 1) x (2W - 1) entries for ``max_size`` (H, W), the largest input that
    it must cover.

    Raises:
        InputError: the scope is not odd and positive, or is global without a ``max_size``.
    """
    window = window_of(scope, max_size)
    return nn.Parameter(torch.randn(query_depth, intra_depth, *window))


def check_input(x: Tensor, padding_mask: Tensor | None, max_size: tuple[int, int] | None) -> None:
    """Check an input (N, C, H, W) against its mask and, with a global scope, the largest size.

    Raises:
        InputError: the input is larger than ``max_size``, or ``padding_mask`` is not bool or has
            another shape than (N, H, W).
    """
    if is_exporting():  # the exported graph must also work for other sizes
        return
    batch, _, height, width = x.shape
    if max_size is not None and (height > max_size[0] or width > max_size[1]):
        raise InputError(
            f"input of {height}x{width}: scope='global' was built for inputs of at most "
            f"max_size={tuple(max_size)}"
        )
    if padding_mask is None:
        return
    if padding_mask.dtype != torch.bool or padding_mask.shape != (batch, height, width):
        raise InputError(
            f"padding_mask of {padding_mask.dtype} and shape {tuple(padding_mask.shape)}: "
            f"expected torch.bool and {(batch, height, width)}"
        )


class LambdaLayer(nn.Module):
    """The lambda layer (arXiv:2102.08602, section 3): content and position lambdas, applied to
    multi-head queries.

    Keys are normalised over all positions of the image, whatever the scope; the position lambda
    covers the ``scope`` x ``scope`` neighbours of each position. Channel order: query (h, k), key
    (u, k), value (u, v), output (h, v).

    Args:
        in_channels: number of channels d of the input.
        out_channels: number of channels of the output (h * v); None = ``in_channels``.
        query_depth: k, number of channels of one query and of one key.
        num_heads: h, must divide ``out_channels``.
        intra_depth: u, number of key and value sets that a lambda sums over.
        scope: side of the position window, an odd number of positions, or ``"global"`` (needs
            ``max_size``).
        norm: normalisation of queries and values, see :func:`lambda_det.layers.norm.make_norm`.
        key_normalizer: ``"softmax"``, ``"l2"`` (both over positions) or None.
        query_normalizer: ``"softmax"`` (over the k channels) or None.
        content: use the content lambda.
        position: use the position lambda.
        shared_embedding: the embedding of another layer, which this layer then shares.
        position_bias: add a learned bias (k) to every position lambda. The paper has none; weights
            of some other implementations need it.
        max_size: largest (H, W) of the layer's input for a global scope.
        backend: see :func:`lambda_det.layers.position_lambda`.
        autotune: whether the back end ``"auto"`` may measure which one is the fastest; False leaves
            the choice to the rule of :func:`lambda_det.layers.choice.choose_backend`.

    Raises:
        InputError: an argument is out of range; the message names it and what is allowed.
    """

    autotune = True  # of a layer that an earlier version has pickled

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        query_depth: int = 16,
        num_heads: int = 4,
        intra_depth: int = 1,
        scope: int | str = 23,
        norm: Norm = "BN",
        key_normalizer: str | None = "softmax",
        query_normalizer: str | None = None,
        content: bool = True,
        position: bool = True,
        shared_embedding: nn.Parameter | None = None,
        position_bias: bool = False,
        max_size: tuple[int, int] | None = None,
        backend: str = "auto",
        autotune: bool = True,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        for name, number in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("query_depth", query_depth),
            ("num_heads", num_heads),
            ("intra_depth", intra_depth),
        ):
            if number < 1:
                raise InputError(f"{name}={number}: expected a positive integer")
        if out_channels % num_heads:
            raise InputError(f"num_heads={num_heads}: must divide out_channels={out_channels}")
        check_choice("key_normalizer", key_normalizer, KEY_NORMALIZERS)
        check_choice("query_normalizer", query_normalizer, QUERY_NORMALIZERS)
        check_choice("backend", backend, BACKEND_NAMES)
        if not (content or position):
            raise InputError("content=False and position=False: at least one must be True")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.query_depth = query_depth
        self.num_heads = num_heads
        self.intra_depth = intra_depth
        self.scope = scope
        self.key_normalizer = key_normalizer
        self.query_normalizer = query_normalizer
        self.content = content
        self.position = position
        self.max_size = max_size
        self.backend = backend
        self.autotune = autotune

        value_channels = intra_depth * out_channels // num_heads
        self.query = nn.Conv2d(in_channels, num_heads * query_depth, 1, bias=False)
        self.key = nn.Conv2d(in_channels, intra_depth * query_depth, 1, bias=False)
        self.value = nn.Conv2d(in_channels, value_channels, 1, bias=False)
        self.query_norm = make_norm(norm, num_heads * query_depth)
        self.value_norm = make_norm(norm, value_channels)
        embedding = new_embedding(
            query_depth=query_depth, intra_depth=intra_depth, scope=scope, max_size=max_size
        )
        if shared_embedding is not None:
            if shared_embedding.shape != embedding.shape:
                raise InputError(
                    f"shared_embedding of shape {tuple(shared_embedding.shape)}: expected "
                    f"{tuple(embedding.shape)}"
                )
            embedding = shared_embedding
        self.register_parameter("embedding", embedding if position else None)
        self.register_parameter(
            "position_bias",
            nn.Parameter(torch.zeros(query_depth)) if position and position_bias else None,
        )
        if not content:
            del self.key  # DistributedDataParallel fails on parameters that get no gradient
        self._init_projections()

    def _init_projections(self) -> None:
        """Initialise the projections from scaled normal distributions (paper, section 4)."""
        depth = self.in_channels
        nn.init.normal_(self.query.weight, std=(self.query_depth * depth) ** -0.5)
        nn.init.normal_(self.value.weight, std=depth**-0.5)
        if self.content:
            nn.init.normal_(self.key.weight, std=depth**-0.5)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: (N, in_channels, H, W), any H and W (with a global scope up to ``max_size``).
            padding_mask: (N, H, W) bool, True where a position is not part of the image. The layer
                reads ``x`` as zero at such a position and gives it no key weight and no value, so
                the numbers in ``x`` there change no output. Norms that take statistics of their
                input (GN; BN in training) count the position as zero.

        Returns:
            (N, out_channels, H, W).

        Raises:
            InputError: the input is larger than ``max_size``, or ``padding_mask`` is not bool or
                has another shape than (N, H, W).
        """
        check_input(x, padding_mask, self.max_size if self.scope == "global" else None)
        if padding_mask is not None:  # a NaN in the padding must not reach sums and statistics
            x = x.masked_fill(padding_mask[:, None], 0)
        query = self.query_norm(self.query(x)).unflatten(1, (self.num_heads, self.query_depth))
        value = self.value_norm(self.value(x)).unflatten(1, (self.intra_depth, -1))
        for tensor in (query, value):
            guard_gradient(tensor)
        if padding_mask is not None:  # the bias of the norm made these zeros non-zero
            value = value.masked_fill(padding_mask[:, None, None], 0)
        if self.query_normalizer == "softmax":
            query = query.softmax(dim=2, dtype=at_least_float32(query.dtype)).to(query.dtype)

        output: Any = 0
        if self.content:
            key = self.key(x).unflatten(1, (self.intra_depth, self.query_depth)).flatten(-2)
            with without_autocast(query):
                weights = self._normalize_key(key.to(at_least_float32(key.dtype)), padding_mask)
                output = content_lambda(query, weights, value)
        if self.position:
            output = output + position_sums(
                query, value, self.embedding, backend=self.backend, autotune=self.autotune
            )
        if self.position_bias is not None:
            output = output + torch.einsum("nhkyx,k->nhyx", query, self.position_bias).unsqueeze(2)
        # In half precision only the sum of both parts is rounded: the position part is so much
        # larger than the content part that its rounding error alone would be as large as the
        # content part.
        return output.to(query.dtype).flatten(1, 2)

    def _normalize_key(self, key: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Normalise (N, u, k, positions) over the positions that are part of the image."""
        outside = None if padding_mask is None else padding_mask.flatten(1)[:, None, None]
        if self.key_normalizer == "softmax":
            if outside is not None:
                key = key.masked_fill(outside, float("-inf"))
            key = key.softmax(dim=-1)
        elif outside is not None:
            key = key.masked_fill(outside, 0)
        if self.key_normalizer == "l2":
            key = nn.functional.normalize(key, dim=-1)
        if outside is not None:  # softmax gives NaN for an image whose mask is True everywhere
            key = key.masked_fill(outside, 0)
        return key

    def multiply_adds(self, height: int, width: int) -> Counter[str]:
        """Count the multiply-adds for one image, without those of the layer's convolutions.

        They are those of the sums of LambdaNetworks (arXiv:2102.08602, section 3) as they are
        written there, whatever back end computes them.

        Args:
            height, width: of the feature map, in positions.

        Returns:
            Counts under ``content_lambda``, ``position_lambda`` and ``position_bias``, as far as
            the layer has these parts.
        """
        positions, queries = height * width, self.num_heads * self.query_depth
        value = self.out_channels // self.num_heads
        one_lambda = self.intra_depth * self.query_depth * value
        apply = positions * queries * value
        counts: Counter[str] = Counter()
        if self.content:
            counts["content_lambda"] = positions * one_lambda + apply
        if self.position:
            window = positions if self.scope == "global" else self.embedding[0, 0].numel()
            counts["position_lambda"] = positions * window * one_lambda + apply
        if self.position_bias is not None:
            counts["position_bias"] = positions * queries
        return counts

    def extra_repr(self) -> str:
        return (
            f"heads={self.num_heads}, query_depth={self.query_depth}, "
            f"intra_depth={self.intra_depth}, scope={self.scope!r}, backend={self.backend!r}"
        )
