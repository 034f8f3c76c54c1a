"""The layers that can stand where a lambda layer stands, against loops over positions."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from attention_loops import attention_loop
from layer_helpers import corner_mask, image
from torch.nn.attention import SDPBackend

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer
from lambda_det.layers.attention import KINDS

RIVALS = [kind for kind in KINDS if kind != "lambda"]
SIZE = (5, 11)  # more columns than a block of the local attention has
MASK = ([3, 5], [9, 2], SIZE)
OPTIONS = [
    ("global_attention", {"num_heads": 4}),
    ("global_attention", {"num_heads": 2, "query_depth": 3, "scope": 5}),
    ("global_attention", {"num_heads": 1, "scope": "global", "max_size": (5, 12)}),
    ("axial_attention", {}),
    ("axial_attention", {"num_heads": 2, "query_depth": 3, "scope": 3}),
    ("axial_attention", {"num_heads": 4, "scope": "global", "max_size": (6, 11)}),
    ("local_attention", {"num_heads": 4}),
    ("local_attention", {"num_heads": 2, "query_depth": 6, "scope": 3}),
    ("local_attention", {"num_heads": 1, "scope": 1}),
    ("local_attention", {"num_heads": 2, "scope": 13}),
    ("linear_attention", {}),
    ("linear_attention", {"num_heads": 2, "query_depth": 3}),
    ("double_attention", {}),
    ("double_attention", {"query_depth": 3}),
    ("attention_augmented", {"num_heads": 2, "scope": 5}),
    ("attention_augmented", {"num_heads": 1, "query_depth": 3}),
    ("depthwise", {}),
    ("depthwise", {"scope": 3}),
]
every_option = pytest.mark.parametrize(("kind", "arguments"), OPTIONS, ids=str)


def make(kind: str, channels: int = 8, **arguments):
    torch.manual_seed(0)
    return KINDS[kind](channels, **arguments).double().eval()


def small(kind: str, channels: int = 8):
    """A layer of eight channels with few heads, where it has heads."""
    has_heads = "num_heads" in inspect.signature(KINDS[kind]).parameters
    return make(kind, channels, **({"num_heads": 2} if has_heads else {}))


def test_options_name_every_kind() -> None:
    assert {kind for kind, _ in OPTIONS} == {*RIVALS}


@every_option
def test_equals_the_loop(kind: str, arguments: dict) -> None:
    layer, x = make(kind, **arguments), image(2, 8, *SIZE)
    torch.testing.assert_close(layer(x), attention_loop(kind, layer, x))


@every_option
def test_mask_equals_the_loop(kind: str, arguments: dict) -> None:
    layer, x, mask = make(kind, **arguments), image(2, 8, *SIZE), corner_mask(*MASK)
    found, wanted = layer(x, mask), attention_loop(kind, layer, x, mask)
    inside = (~mask)[:, None].expand_as(x)
    torch.testing.assert_close(found[inside], wanted[inside])


@pytest.mark.parametrize("kind", RIVALS)
def test_padding_changes_nothing(kind: str) -> None:
    layer, x, mask = small(kind), image(2, 8, *SIZE), corner_mask(*MASK)
    other = torch.where(mask[:, None], torch.nan, x)
    assert torch.equal(layer(x, mask), layer(other, mask))
    # A batch mate of another size changes nothing either.
    for n, (height, width) in enumerate([(3, 9), (5, 2)]):
        alone = layer(x[n : n + 1, :, :height, :width])
        torch.testing.assert_close(layer(x, mask)[n : n + 1, :, :height, :width], alone)


@pytest.mark.parametrize("kind", RIVALS)
def test_image_that_is_padding_altogether_is_finite(kind: str) -> None:
    layer, x = small(kind), image(2, 8, 3, 4).requires_grad_()
    output = layer(x, corner_mask([0, 3], [0, 4], (3, 4)))
    assert output.isfinite().all()
    output.sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("kind", RIVALS)
def test_gradients(kind: str, masked: bool) -> None:
    layer, x = small(kind), image(1, 8, 3, 2).requires_grad_()
    mask = corner_mask([2], [2], (3, 2)) if masked else None
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(output, (x, *values), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", RIVALS)
def test_half_precision(kind: str, dtype: torch.dtype) -> None:
    layer = small(kind).float()
    x, mask = image(2, 8, *SIZE).float(), corner_mask(*MASK)
    with torch.autocast("cpu", dtype):
        found = layer(x, mask)
    assert found.dtype == dtype
    inside = (~mask)[:, None].expand_as(x)
    torch.testing.assert_close(found.float()[inside], layer(x, mask)[inside], rtol=0.1, atol=0.1)


class Attended:
    """Stands in for PyTorch's attention and keeps what it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.attention = [], F.scaled_dot_product_attention
        monkeypatch.setattr(F, "scaled_dot_product_attention", self)

    def __call__(self, *sequences, attn_mask):
        self.calls.append((*sequences, attn_mask))
        return self.attention(*sequences, attn_mask=attn_mask)


def test_what_is_excluded_stays_so_at_depth_512_in_float16(monkeypatch) -> None:
    """The scale of the logits, which is small for deep queries, is not that of what is excluded."""
    attended = Attended(monkeypatch)
    layer = make("local_attention", 512, num_heads=1, scope=3).float()
    x, mask = image(2, 512, *SIZE).float(), corner_mask(*MASK)
    with torch.autocast("cpu", torch.float16):
        found = layer(x, mask)
    (*_, bias) = attended.calls[0]
    excluded, ordinary = bias[bias < -100], bias[bias >= -100]
    assert len(excluded) > 9 * len(ordinary) and ordinary.abs().max() < 20
    assert excluded.max() < torch.finfo(torch.float16).min / 9  # a column or a row of it, an eighth
    inside = (~mask)[:, None].expand_as(x)
    torch.testing.assert_close(found.float()[inside], layer(x, mask)[inside], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("kind", ["global_attention", "axial_attention", "local_attention"])
@torch.no_grad()
def test_inference_takes_a_fused_kernel(kind: str, masked: bool, monkeypatch) -> None:
    attended = Attended(monkeypatch)
    x, mask = image(2, 32, *SIZE).float(), corner_mask(*MASK)
    small(kind, 32).float()(x, mask if masked else None)
    assert attended.calls
    for query, key, value, bias in attended.calls:
        chosen = torch._fused_sdp_choice(query, key, value, attn_mask=bias)
        assert SDPBackend(chosen) != SDPBackend.MATH


def test_linear_attention_is_the_content_lambda_of_softmax_queries() -> None:
    linear = make("linear_attention", num_heads=1, query_depth=3)
    content = LambdaLayer(
        8, num_heads=1, query_depth=3, position=False, query_normalizer="softmax", norm=""
    ).double()
    content.load_state_dict(linear.state_dict())
    x, mask = image(2, 8, *SIZE), corner_mask(*MASK)
    torch.testing.assert_close(linear(x, mask), content(x, mask))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("global_attention", {"num_heads": 3}, "num_heads=3: must divide 8 channels"),
        ("global_attention", {"scope": "global"}, "max_size=None"),
        ("axial_attention", {"scope": 4}, "scope=4: expected an odd"),
        ("axial_attention", {"query_depth": 0}, "query_depth=0: expected a positive"),
        ("local_attention", {"query_depth": 3}, "query_depth=3: expected an even"),
        ("local_attention", {"num_heads": 2, "scope": "global"}, "scope='global'"),
        ("linear_attention", {"num_heads": 0}, "num_heads=0: expected a positive"),
        ("double_attention", {"query_depth": -1}, "query_depth=-1: expected a positive"),
        (
            "attention_augmented",
            {"num_heads": 8},
            "num_heads=8: expected fewer heads than the 8 ch",
        ),
        ("depthwise", {"scope": 2}, "scope=2: expected an odd"),
        ("depthwise", {"scope": "global"}, "scope='global'"),
    ],
    ids=str,
)
def test_wrong_arguments(kind: str, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(kind, **arguments)


@pytest.mark.parametrize("kind", RIVALS)
def test_wrong_mask(kind: str) -> None:
    with pytest.raises(InputError, match=r"padding_mask of torch\.bool .*\(1, 4, 3\)"):
        small(kind)(image(1, 8, 3, 4), torch.zeros(1, 4, 3, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["global_attention", "axial_attention", "attention_augmented"])
def test_input_larger_than_the_global_scope(kind: str) -> None:
    layer = make(kind, num_heads=2, scope="global", max_size=(4, 6))
    layer(image(1, 8, 4, 6))
    with pytest.raises(InputError, match="input of 4x7"):
        layer(image(1, 8, 4, 7))
