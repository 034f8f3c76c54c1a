"""Names, shapes, numbers of parameters and initialisation of LambdaLayer, and its errors."""

from __future__ import annotations

import inspect

import pytest
import torch

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer, position_lambda


def test_signatures() -> None:
    parameters = inspect.signature(LambdaLayer).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert list(defaults)[:2] == ["in_channels", "out_channels"]
    assert defaults.pop("in_channels") is inspect.Parameter.empty
    assert defaults == {
        "out_channels": None,
        "query_depth": 16,
        "num_heads": 4,
        "intra_depth": 1,
        "scope": 23,
        "norm": "BN",
        "key_normalizer": "softmax",
        "query_normalizer": None,
        "content": True,
        "position": True,
        "shared_embedding": None,
        "position_bias": False,
        "max_size": None,
        "backend": "auto",
        "autotune": True,
    }
    keyword_only = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keyword_only == [name for name in defaults if name != "out_channels"]
    forward = inspect.signature(LambdaLayer.forward).parameters
    assert list(forward) == ["self", "x", "padding_mask"]
    function = inspect.signature(position_lambda).parameters
    assert list(function) == ["query", "value", "embedding", "backend"]
    assert function["backend"].default == "auto"


def test_names_and_shapes() -> None:
    layer = LambdaLayer(24, 32, query_depth=6, num_heads=8, intra_depth=3, scope=7)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes == {
        "query.weight": (48, 24, 1, 1),  # h * k
        "key.weight": (18, 24, 1, 1),  # u * k
        "value.weight": (12, 24, 1, 1),  # u * v, v = 32 / 8
        "query_norm.weight": (48,),
        "query_norm.bias": (48,),
        "value_norm.weight": (12,),
        "value_norm.bias": (12,),
        "embedding": (6, 3, 7, 7),
    }
    assert {name for name, _ in layer.named_children()} == {
        *("query", "key", "value", "query_norm", "value_norm")
    }


def test_initialisation() -> None:
    torch.manual_seed(0)
    d, k = 256, 16
    layer = LambdaLayer(d, 1024, query_depth=k, num_heads=4, intra_depth=2)
    for weight, std in (
        (layer.query.weight, (k * d) ** -0.5),
        (layer.key.weight, d**-0.5),
        (layer.value.weight, d**-0.5),
        (layer.embedding, 1.0),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.04)
        assert abs(weight.mean().item()) < 4 * std * weight.numel() ** -0.5
        # Normal, not uniform: about 4.6 % lie beyond two standard deviations.
        assert 0.035 < (weight.abs() > 2 * std).float().mean().item() < 0.056
    for norm in (layer.query_norm, layer.value_norm):
        assert bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"scope": 22}, "scope=22"),
        ({"scope": "23"}, "scope='23'"),
        ({"scope": "global"}, "max_size"),
        ({"scope": "global", "max_size": (4,)}, "max_size"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"query_depth": 0}, "query_depth=0"),
        ({"intra_depth": 0}, "intra_depth=0"),
        ({"key_normalizer": "sigmoid"}, "key_normalizer='sigmoid'"),
        ({"query_normalizer": "l2"}, "query_normalizer='l2'"),
        ({"norm": "LayerNorm"}, "norm='LayerNorm'"),
        ({"backend": "conv3d"}, "backend='conv3d'"),
        ({"content": False, "position": False}, "content=False"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict, named: str) -> None:
    with pytest.raises(InputError) as error:
        LambdaLayer(32, **arguments)
    message = str(error.value)
    assert named in message and "\n" not in message


@pytest.mark.parametrize("channels", [0, -8])
def test_wrong_channels(channels: int) -> None:
    with pytest.raises(InputError, match="in_channels"):
        LambdaLayer(channels)
    with pytest.raises(InputError, match="out_channels"):
        LambdaLayer(32, channels)
