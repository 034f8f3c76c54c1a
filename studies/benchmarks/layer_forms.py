"""What the benchmark of layers compares.

These are the back ends of the position lambda, the forms in which other implementations compute it,
whole lambda layers, and the operators that a lambda layer replaces. The forms are written here from
their formulas, for comparison only; no code of others is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from lambda_det.layers import LambdaLayer, position_lambda
from lambda_det.layers.position_lambda import BACKENDS
from studies.benchmarks.packed_form import packed

HEADS, QUERY_DEPTH, SCOPE = 4, 16, 23
STAGES = {"res2": (64, 4), "res3": (128, 8), "res4": (256, 16), "res5": (512, 32)}
"""Stage of a ResNet -> (channels of its lambda layers, stride)."""


@dataclass(frozen=True)
class Shape:
    """The input of a layer.

    Attributes:
        stage: name of the stage, such as ``"res4"``.
        batch, channels, height, width: shape of the feature map.
    """

    stage: str
    batch: int
    channels: int
    height: int
    width: int


def shapes_of_image(
    height: int, width: int, stages: Sequence[str], batches: Sequence[int]
) -> list[Shape]:
    """Shapes of the feature maps of an image of ``height`` x ``width`` pixels, rounded up."""
    return [
        Shape(stage, batch, channels, -(-height // stride), -(-width // stride))
        for stage in stages
        for batch in batches
        for channels, stride in [STAGES[stage]]
    ]


@dataclass
class Candidate:
    """A function or module to measure.

    Attributes:
        name: name of the form.
        kind: ``"position"`` (the position lambda alone, from queries, values and embedding),
            ``"layer"`` (a layer with projections, norms and content lambda) or ``"yardstick"`` (an
            operator that a lambda layer replaces).
        function: the function; it takes ``inputs``, and for ``"position"`` also ``parameters``.
        inputs: tensors that get a gradient.
        parameters: parameters that get a gradient. They do not count as memory kept for the
            backward pass.
        autocast: type of the autocast, or None for none.
        facts: further values of its row, which need no measurement. With a ``note`` that says why,
            nothing is measured.
    """

    name: str
    kind: str
    function: Callable[..., Tensor]
    inputs: list[Tensor]
    parameters: list[Tensor] = field(default_factory=list)
    autocast: torch.dtype | None = None
    facts: dict[str, object] = field(default_factory=dict)


Module = tuple[str, str, Callable[[], nn.Module]]
"""Name and kind of a candidate, and what makes its module."""


def position_inputs(shape: Shape, device: str, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Query, value and embedding of normal random numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    depth = shape.channels // HEADS
    sizes = (
        (shape.batch, HEADS, QUERY_DEPTH, shape.height, shape.width),
        (shape.batch, 1, depth, shape.height, shape.width),
        (QUERY_DEPTH, 1, SCOPE, SCOPE),
    )
    return [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]


def candidates(shape: Shape, device: str, dtype: torch.dtype, seed: int) -> Iterator[Candidate]:
    """Yield all candidates for a shape. If ``dtype`` is a half type, layers run under autocast."""
    inputs = [t.requires_grad_() for t in position_inputs(shape, device, dtype, seed)]
    for name, function in position_forms(device).items():
        yield Candidate(name, "position", function, inputs[:2], inputs[2:])
    yield from module_candidates(_modules(shape.channels), shape, device, dtype, seed)


def module_candidates(
    modules: Iterable[Module], shape: Shape, device: str, dtype: torch.dtype, seed: int
) -> Iterator[Candidate]:
    """Yield modules as candidates for a shape, each with weights of the same seed."""
    x = torch.randn(
        (shape.batch, shape.channels, shape.height, shape.width),
        generator=torch.Generator().manual_seed(seed),
    )
    x = x.to(device).requires_grad_()
    autocast = dtype if dtype in (torch.bfloat16, torch.float16) else None
    for name, kind, make in modules:
        torch.manual_seed(seed)
        module = make().to(device)
        if autocast is None:
            module.to(dtype)
        source = x if autocast else x.detach().to(dtype).requires_grad_()
        yield Candidate(name, kind, module, [source], list(module.parameters()), autocast)


def position_forms(device: str) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The position lambdas that run on ``device``: name -> function of query, value, embedding."""
    own = [
        "auto",
        *(name for name in BACKENDS if name != "reference"),
    ]
    elsewhere = "native" if device.startswith("cuda") else "triton"
    own = [name for name in own if name != elsewhere]
    forms = {name: partial(position_lambda, backend=name) for name in own}
    return forms | PEER_FORMS | OWN_FORMS


def _modules(channels: int) -> Iterator[Module]:
    arguments = {"num_heads": HEADS, "query_depth": QUERY_DEPTH, "scope": SCOPE}
    yield "LambdaLayer", "layer", partial(LambdaLayer, channels, **arguments)
    if timm_layer := _installed("timm.layers.lambda_layer", "LambdaLayer"):
        sizes = {"num_heads": HEADS, "dim_head": QUERY_DEPTH, "r": SCOPE}
        yield "timm LambdaLayer", "layer", partial(timm_layer, channels, **sizes)
    if peer_layer := _installed("lambda_networks", "LambdaLayer"):
        sizes = {"dim_k": QUERY_DEPTH, "heads": HEADS, "r": SCOPE, "dim_u": 1}
        sizes["dim_out"] = channels
        yield "lambda-networks", "layer", partial(peer_layer, channels, **sizes)
    yield from yardsticks(channels)


def yardsticks(channels: int) -> Iterator[Module]:
    """The operators that a lambda layer replaces."""
    convolution = partial(nn.Conv2d, channels, channels, 3, padding=1, bias=False)
    yield "3x3 convolution", "yardstick", convolution
    yield "SE", "yardstick", partial(SqueezeExcitation, channels, channels // 4)


def _installed(module: str, name: str) -> Callable | None:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None


def _apply(query: Tensor, lambdas: Tensor) -> Tensor:
    """Apply lambdas (N, v, k, H, W) to queries (N, h, k, H, W) -> (N, h, v, H, W)."""
    return torch.einsum("nhkyx,nvkyx->nhvyx", query, lambdas)


def conv3d(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """As a conv3d with a kernel of 1 x r x r, where v is the third dimension."""
    padding = (0, embedding.shape[2] // 2, embedding.shape[3] // 2)
    lambdas = F.conv3d(value, embedding[:, :, None], padding=padding)
    return torch.einsum("nhkyx,nkvyx->nhvyx", query, lambdas)


def conv2d(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """As a conv2d with v folded into the batch, which computes all lambdas at once."""
    padding = (embedding.shape[2] // 2, embedding.shape[3] // 2)
    folded = value.transpose(1, 2).flatten(0, 1)
    lambdas = F.conv2d(folded, embedding, padding=padding)
    return _apply(query, lambdas.unflatten(0, (value.shape[0], value.shape[2])))


def depthwise(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """As a grouped conv2d: one group for each v with u as its channels, repeated embedding."""
    channels, depth = value.shape[2], embedding.shape[0]
    padding = (embedding.shape[2] // 2, embedding.shape[3] // 2)
    grouped = value.transpose(1, 2).flatten(1, 2)
    kernel = embedding.repeat(channels, 1, 1, 1)
    lambdas = F.conv2d(grouped, kernel, padding=padding, groups=channels)
    return _apply(query, lambdas.unflatten(1, (channels, depth)))


def row_unfold(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """As a conv2d with a kernel of r x 1 over r copies of the values, shifted along the row."""
    rows, columns = embedding.shape[2:]
    width = value.shape[-1]
    padded = F.pad(value.transpose(1, 2).flatten(0, 1), (columns // 2, columns // 2))
    shifted = torch.stack([padded[..., x : x + width] for x in range(columns)], dim=2)
    kernel = embedding.transpose(2, 3).flatten(1, 2).unsqueeze(-1)
    lambdas = F.conv2d(shifted.flatten(1, 2), kernel, padding=(rows // 2, 0))
    return _apply(query, lambdas.unflatten(0, (value.shape[0], value.shape[2])))


PEER_FORMS = {
    "conv3d form": conv3d,
    "conv2d form": conv2d,
    "depthwise form": depthwise,
}
"""Forms in which other implementations compute the position lambda."""

OWN_FORMS = {
    "row-unfold form": row_unfold,
    "packed form, 8": partial(packed, width=8),
    "packed form, 16": partial(packed, width=16),
}
"""Forms that no implementation uses, to see whether one should."""
