"""Weights of networks with other layers than lambda layers."""

from __future__ import annotations

import shlex

import pytest
import torch
from torch import nn

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet, lambda_resnet_arguments
from lambda_det.checkpoint import load_weights, metadata_of_training
from lambda_det.checkpoint.conversion import convert_file
from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError


class Scale(nn.Module):
    """A user's layer whose only parameter is not named weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * self.factor


class Conv(nn.Conv2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)


STAGES = {"res3": "all", "res4": [1], "res5": []}


def network(kind="local_attention", **arguments):
    return build_lambda_resnet(26, "resnet", lambda_blocks=STAGES, kind=kind, **arguments)


def config(kind="local_attention"):
    cfg = get_cfg()
    cfg.MODEL.LAMBDA_RESNET.DEPTH, cfg.MODEL.LAMBDA_RESNET.VARIANT = 26, "resnet"
    cfg.MODEL.LAMBDA_RESNET.LAYER.KIND = kind
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    blocks = cfg.MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS
    blocks.RES3, blocks.RES4, blocks.RES5 = ["all"], [1], []
    return cfg


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of the weights, and the network that they are of."""
    model, path = network(), tmp_path_factory.mktemp("kinds") / "w.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path), model


def test_weights_are_loaded(saved) -> None:
    path, model = saved
    other = network()
    load_weights(other, path, complete=True, cfg=config())
    same = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_layers_may_stay_random(saved, tmp_path) -> None:
    resnet, path = (
        build_lambda_resnet(26, "resnet", zero_init_residual=False),
        str(tmp_path / "resnet.pth"),
    )
    torch.save({"model": resnet.state_dict()}, path)
    cfg = config()
    with pytest.raises(InputError, match=r"res3\.0\.spatial_layer.*set MODEL\..*PARTIAL_INIT True"):
        load_weights(network(), path, cfg=cfg)
    node = cfg.MODEL.LAMBDA_RESNET
    node.PARTIAL_INIT = node.PARTIAL_INIT_AS_IDENTITY = True
    model = network(zero_init_residual=False)
    load_weights(model, path, cfg=cfg)
    assert not model.res3[0].conv3.norm.weight.any() and model.res4[1].conv3.norm.weight.all()


def test_conversion_needs_the_config(saved, tmp_path) -> None:
    path, model = saved
    converted = str(tmp_path / "converted.pth")
    with pytest.raises(InputError, match=r"another kind than 'lambda' .*: name the config"):
        convert_file(path, converted)
    convert_file(path, converted, cfg=config())
    declared = translate(converted, read_file(converted)).architecture()
    assert declared["kind"] == "local_attention"
    assert build_lambda_resnet(**declared).state_dict().keys() == model.state_dict().keys()


HEADS = "MODEL.LAMBDA_RESNET.LAYER.NUM_HEADS"


def trained(kind: str, **arguments) -> tuple[dict, str]:
    """The content of a training's checkpoint."""
    model = network(kind, **arguments)
    return {"model": model.state_dict()} | metadata_of_training(
        model, lambda_resnet_arguments(get_cfg()), None
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "other", "line"),
    [
        ("linear_attention", {"num_heads": 4}, "linear_attention",
         f"num_heads=4, but {HEADS} is 8; set {HEADS} to 4"),
        ("global_attention", {}, "linear_attention",
         "kind='global_attention', but MODEL.LAMBDA_RESNET.LAYER.KIND is 'linear_attention'; set"),
        ("linear_attention", {}, "linear_attention", ""),
    ],
)  # fmt: skip
def test_what_shapes_do_not_show_is_compared(
    kind, arguments, other, line, tmp_path, caplog
) -> None:
    path = str(tmp_path / "w.pth")
    torch.save(trained(kind, **arguments), path)
    for cfg in (config(other), None):
        caplog.clear()
        load_weights(network(other), path, complete=True, cfg=cfg)
        found = [r.getMessage() for r in caplog.records if "was trained with" in r.getMessage()]
        assert len(found) == bool(line) and all(line in message for message in found)
    converted = str(tmp_path / "converted.pth")  # it keeps what the network was trained with
    summary = convert_file(path, converted, cfg=config(other)).summary()
    declared = translate(converted, read_file(converted)).architecture()
    assert declared["kind"] == kind and declared["num_heads"] == arguments.get("num_heads", 8)
    model = build_lambda_resnet(**declared)
    load_weights(model, converted, complete=True)
    cfg = get_cfg()  # the line for a config says the same
    cfg.merge_from_list(shlex.split(summary.rpartition("config: ")[2]))
    described = lambda_resnet_arguments(cfg)
    again = build_lambda_resnet(**described)
    assert again.other_kind == model.other_kind
    shapes = ({n: t.shape for n, t in m.state_dict().items()} for m in (again, model))
    assert next(shapes) == next(shapes)


def test_the_metadata_of_lambda_networks_stays() -> None:
    hidden = {"stride_in_1x1": False, "activation": "relu", "lambda_pool": 3}
    for content in (trained("lambda"), trained("lambda", num_heads=8, scope=7)):
        assert content["lambda_det"]["hidden"] == hidden
    found = trained("depthwise")["lambda_det"]["hidden"]
    assert found == hidden | {"kind": "depthwise", "scope": 23}
    found = trained(Conv)["lambda_det"]["hidden"]
    assert found == hidden | {"kind": "Conv"}


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"kind": 3}, "kind=3"),
        ({"kind": "depthwise", "scope": [7]}, "scope=a list"),
        ({"kind": "linear_attention", "num_heads": "8"}, "num_heads='8'"),
    ],
)
def test_facts_of_a_wrong_type_are_refused(entries: dict, line: str, saved) -> None:
    content = {"model": saved[1].state_dict(), "lambda_det": {"hidden": entries}}
    with pytest.raises(InputError, match=f"^w.pth: its metadata has {line}"):
        translate("w.pth", content)


def test_a_layer_without_a_weight_is_random_or_not(tmp_path) -> None:
    """Whether a file has a layer is told by any tensor of it."""
    path, cfg = str(tmp_path / "w.pth"), config()
    node = cfg.MODEL.LAMBDA_RESNET
    node.PARTIAL_INIT = node.PARTIAL_INIT_AS_IDENTITY = True
    for has_layer in (True, False):
        model, other = (network(Scale, zero_init_residual=False) for _ in range(2))
        state = model.state_dict()
        kept = {n: t for n, t in state.items() if has_layer or "spatial_layer" not in n}
        torch.save({"model": kept}, path)
        load_weights(other, path, cfg=cfg)
        assert bool(other.res3[0].conv3.norm.weight.any()) == has_layer
        assert other.res5[0].conv3.norm.weight.any()


def test_a_file_names_nothing_that_is_imported(saved) -> None:
    path, model = saved
    for entry in ("architecture", "hidden"):
        metadata = {entry: {"depth": 26, "variant": "resnet", "kind": "antigravity.fly"}}
        content = {"model": model.state_dict(), "lambda_det": metadata}
        with pytest.raises(InputError, match="name the config"):
            translate(path, content).architecture()
