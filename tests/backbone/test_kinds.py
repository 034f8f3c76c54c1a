"""Other layers in the place of lambda layers: building, names, padding, graphs."""

from __future__ import annotations

import copy
import logging
import sys

import pytest
import torch
from backbone_helpers import STRIDES, feature_size, image, randomise
from torch import nn

from lambda_det import get_cfg
from lambda_det.backbone import LAYER_REGISTRY, attach_image_sizes, build_lambda_resnet
from lambda_det.backbone.build import build_lambda_resnet_backbone, lambda_resnet_arguments
from lambda_det.backbone.kinds import LAYER_ARGUMENTS
from lambda_det.errors import InputError
from lambda_det.layers.attention import KINDS, LocalAttention

RIVALS = [kind for kind in KINDS if kind != "lambda"]
CANVAS = (96, 128)
SIZES = [(77, 61), (50, 101)]
TWO_STAGES = {"out_features": ("res2", "res3"), "lambda_blocks": {"res2": [2], "res3": "all"}}


def build(kind, variant="lambda", **arguments) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(26, variant, kind=kind, **(TWO_STAGES | arguments))
    randomise(backbone)
    return backbone.eval()


class Blur(nn.Module):
    """A user's layer, which knows nothing of masks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels, 1, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, padding=1, groups=len(self.weight))


class MaskedMean(Blur):
    """A user's layer that takes the mask by its name only, by whose use it is seen here."""

    def forward(self, x, *, padding_mask=None):
        self.masks = [*getattr(self, "masks", []), padding_mask]
        return super().forward(x)


@pytest.mark.parametrize("kind", RIVALS)
@torch.no_grad()
def test_batch_mates_change_nothing(kind: str) -> None:
    backbone = build(kind, mask_padding=True).double()
    batch = torch.zeros(2, 3, *CANVAS, dtype=torch.float64)
    for n, (height, width) in enumerate(SIZES):
        batch[n, :, :height, :width] = image(3, height, width, seed=n).double()
    alone = [batch[n : n + 1, :, :h, :w].clone() for n, (h, w) in enumerate(SIZES)]
    features = backbone(attach_image_sizes(batch, SIZES))
    unmasked = copy.deepcopy(backbone)
    unmasked.mask_padding = False
    others = unmasked(batch)
    for n, size in enumerate(SIZES):
        for name, wanted in backbone(alone[n]).items():
            height, width = feature_size(*size, STRIDES[name])
            found, other = (f[name][n : n + 1, :, :height, :width] for f in (features, others))
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
            assert (other - wanted).abs().max() > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("kind", [*RIVALS, Blur, MaskedMean])
def test_the_block_around_the_layer_stays(kind) -> None:
    backbone = build(kind, norm="BN").train()
    lambda_names = {
        name.replace("lambda_layer", "spatial_layer").partition(".spatial_layer.")[0]
        for name in build("lambda").state_dict()
    }
    names = {name.partition(".spatial_layer.")[0] for name in backbone.state_dict()}
    assert names == lambda_names
    block = backbone.res3[0]
    assert block.lambda_layer is None and not hasattr(block, "conv2")
    assert isinstance(block.lambda_pool, nn.AvgPool2d) and block.lambda_norm is not None
    sum(x.sum() for x in backbone(torch.rand(2, 3, 33, 65)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.fixture
def registered(monkeypatch):
    """Registers a layer until the end of the test."""
    monkeypatch.setattr(LAYER_REGISTRY, "_obj_map", dict(LAYER_REGISTRY._obj_map))
    return LAYER_REGISTRY.register


def narrow(channels: int) -> LocalAttention:
    return LocalAttention(channels, scope=3, num_heads=channels // 16)


def test_callables_and_registered_names(registered) -> None:
    registered(narrow)
    given, named = build(LocalAttention), build("narrow")
    assert {*named.state_dict()} == {*given.state_dict()} == {*build(narrow).state_dict()}
    assert given.res3[0].spatial_layer.scope == 7 and named.res3[0].spatial_layer.num_heads == 8
    assert named.res2[1].spatial_layer.scope == 3 and named.res2[1].spatial_layer.num_heads == 4
    assert isinstance(from_config(config("narrow")).res3[0].spatial_layer, LocalAttention)


def test_a_registered_name_has_one_meaning(registered) -> None:
    registered(type("depthwise", (Blur,), {}))
    with pytest.raises(InputError, match="kind='depthwise': a layer in LAYER_REGISTRY needs anoth"):
        build("depthwise")


def test_a_config_names_nothing_else_to_call(monkeypatch) -> None:
    """Not what is imported already, nor what could be."""
    called = []
    monkeypatch.setattr("os._exit", called.append)
    for name in ("os._exit", "lambda_det.layers.attention.LocalAttention", "antigravity.fly"):
        with pytest.raises(InputError, match=f"LAYER.KIND='{name}': .* --import MODULE"):
            from_config(config(name))
    assert not called and "antigravity" not in sys.modules


def fails(channels: int) -> nn.Module:
    raise ZeroDivisionError(f"of\n{channels}")


def test_a_layer_gets_the_mask_if_it_takes_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        masked = build(MaskedMean, mask_padding=True)
        assert not caplog.records
        build(Blur)
        assert not caplog.records
        build(Blur, mask_padding=True)
    (record,) = caplog.records
    assert record.getMessage() == (
        "mask_padding: the forward of a layer of kind 'Blur' has no argument padding_mask; it "
        "reads the padding of a batch as zeros"
    )
    masked(attach_image_sizes(torch.rand(1, 3, 64, 64), [(40, 64)]))
    (mask,) = masked.res2[1].spatial_layer.masks
    assert mask.shape == (1, 16, 16) and not mask[:, :10].any() and mask[:, 10:].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "attention"}, "kind='attention': expected one of 'lambda', 'global_attention'"),
        ({"kind": 3}, "kind=3: expected one of"),
        ({"kind": nn.Conv2d(64, 64, 3, padding=1)}, r"^kind: expected a class .*\(Conv2d\)$"),
        ({"kind": fails}, r"^kind='fails': failed for 64 channels \(ZeroDivisionError: of 64\)$"),
        ({"kind": lambda channels: channels}, "returned int for 64 channels, expected a torch"),
        ({"kind": Blur, "scope": 5}, "scope=5: a layer of kind 'Blur' does not have it, expected"),
        (
            {"kind": "local_attention", "intra_depth": 4},
            "intra_depth=4: a layer of kind 'local_attention' does not have it, expected 1; its "
            "arguments are query_depth, num_heads, scope",
        ),
        ({"kind": "depthwise", "num_heads": 2}, "num_heads=2: .*its arguments are scope"),
        ({"kind": "depthwise", "shared_embeddings": True}, "shared_embeddings=True: is for lambda"),
        ({"kind": "depthwise", "lambda_norm_qv": "GN"}, "lambda_norm_qv='GN': is for lambda"),
        ({"kind": "depthwise", "scope": 4}, "scope=4: expected an odd"),
        ({"kind": "local_attention", "scope": "global"}, "scope='global': expected an odd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # an id holds no address
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        build(**arguments)
    assert "\n" not in str(error.value)


def test_unknown_arguments_are_refused_for_every_kind() -> None:
    for kind in (*KINDS, Blur):
        with pytest.raises(TypeError, match="unexpected keyword argument 'windows'"):
            build(kind, windows=3)


def config(kind: str, *words: object):
    cfg = get_cfg()
    node = "MODEL.LAMBDA_RESNET."
    keys = [node + "DEPTH", 26, node + "OUT_FEATURES", ["res2", "res3"], node + "LAYER.KIND", kind]
    keys += [node + "LAMBDA_BLOCKS.RES3", ["all"]]
    keys += [node + word if isinstance(word, str) and i % 2 == 0 else word
             for i, word in enumerate(words)]  # fmt: skip
    cfg.merge_from_list(keys)
    return cfg


def from_config(cfg) -> nn.Module:
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        return build_lambda_resnet_backbone(cfg, type("Shape", (), {"channels": 3}))


def test_keys_of_the_config(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lambda_det.backbone.build"):
        layer = from_config(config("local_attention")).res3[0].spatial_layer
    assert (layer.scope, layer.num_heads, layer.query_depth) == (7, 8, 16)  # its own defaults
    assert "local_attention layers in all of res3" in caplog.text
    words = ["LAYER.SCOPE", 5, "LAYER.NUM_HEADS", 2, "LAYER.QUERY_DEPTH", 6]
    layer = from_config(config("local_attention", *words)).res3[0].spatial_layer
    assert (layer.scope, layer.num_heads, layer.query_depth) == (5, 2, 6)
    words = ["LAYER.SCOPE", 0, "LAYER.MAX_SIZE", [64, 96]]
    layer = from_config(config("axial_attention", *words)).res3[0].spatial_layer
    assert layer.along_columns.offsets.shape[1] == 31 and layer.max_size == (16, 24)
    words = ["LAYER.AUTOTUNE", False]  # of the configs for a CPU: nothing is measured here
    from_config(config("linear_attention", *words))


def test_values_that_are_the_lambda_layers_defaults() -> None:
    words = ["LAYER.OWN_DEFAULTS", False]
    layer = from_config(config("local_attention", *words)).res3[0].spatial_layer
    assert (layer.scope, layer.num_heads, layer.query_depth) == (23, 4, 16)
    assert from_config(config("depthwise", *words)).res3[0].spatial_layer.scope == 23
    words += ["LAYER.SCOPE", 5]
    layer = from_config(config("local_attention", *words)).res3[0].spatial_layer
    assert (layer.scope, layer.num_heads, layer.query_depth) == (5, 4, 16)
    plain, other = get_cfg(), get_cfg()
    other.MODEL.LAMBDA_RESNET.LAYER.OWN_DEFAULTS = False
    assert lambda_resnet_arguments(plain) == lambda_resnet_arguments(other)


@pytest.mark.parametrize(
    ("kind", "arguments", "line"),
    [
        ("local_attention", {}, ": query_depth by the channels, num_heads 8, scope 7"),
        ("linear_attention", {"query_depth": 5}, ": query_depth 5, num_heads 8"),
        (Blur, {}, ""),
    ],
)
def test_the_log_names_the_arguments_that_hold(kind, arguments, line, caplog) -> None:
    """Of a network that is built without a config, too."""
    with caplog.at_level(logging.INFO, logger="lambda_det.backbone.kinds"):
        build(kind, **arguments)
        build("lambda")
        build(kind, lambda_blocks={"res2": [], "res3": []}, variant="resnet")
    name = kind if isinstance(kind, str) else "Blur"
    assert [r.getMessage() for r in caplog.records] == [f"layers of kind {name!r}{line}"]


def test_arguments_of_a_lambda_config_are_as_ever() -> None:
    arguments = lambda_resnet_arguments(get_cfg())
    assert arguments["kind"] == "lambda" and arguments.keys() >= {*LAYER_ARGUMENTS}


def test_wrong_keys_name_the_key() -> None:
    with pytest.raises(InputError, match=r"^MODEL\.LAMBDA_RESNET\.LAYER\.KIND='conv': expected"):
        from_config(config("conv"))
    with pytest.raises(InputError, match=r"^MODEL\.LAMBDA_RESNET\.LAYER\.INTRA_DEPTH=2: a layer"):
        from_config(config("linear_attention", "LAYER.INTRA_DEPTH", 2))
    with pytest.raises(InputError, match=r"^MODEL\.LAMBDA_RESNET\.LAYER\.NORM='GN': is for lambda"):
        from_config(config("linear_attention", "LAYER.NORM", "GN"))


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("linear_attention", "SCOPE=0: a layer of kind 'linear_attention' does not have it"),
        ("depthwise", "SCOPE=0: expected an odd positive integer$"),
        ("lambda", r"MAX_SIZE=None: SCOPE 0 needs the largest \(H, W\)"),
    ],
)
def test_a_global_scope_is_0_in_messages_about_a_config(kind: str, line: str) -> None:
    with pytest.raises(InputError, match=rf"^MODEL\.LAMBDA_RESNET\.LAYER\.{line}"):
        from_config(config(kind, "LAYER.SCOPE", 0))
    with pytest.raises(InputError, match=r"SCOPE=4: expected an odd positive integer or 0$"):
        from_config(config("lambda", "LAYER.SCOPE", 4))


def test_idle_and_recomputed_stages() -> None:
    backbone = build("local_attention", idle_stages=["res3"], norm="BN").train()
    assert not any(p.requires_grad for p in backbone.res3[0].spatial_layer.parameters())
    plain = build("global_attention", norm="BN").train()
    twice = build("global_attention", norm="BN", activation_checkpointing=["res2", "res3"]).train()
    x, gradients = torch.rand(2, 3, 40, 64), []
    for network in (plain, twice):
        network(x)["res3"].square().sum().backward()
        gradients.append(network.res3[0].spatial_layer.rows.grad)
    torch.testing.assert_close(*gradients)


def test_messages_and_names_are_the_users() -> None:
    with pytest.raises(InputError, match=r"LAYER\.KIND='global': expected one of"):
        from_config(config("global"))

    class Inner(Blur):
        pass

    assert build(Inner).other_kind == {"kind": "Inner"}  # as LAYER_REGISTRY names it
