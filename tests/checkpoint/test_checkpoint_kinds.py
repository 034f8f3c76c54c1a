"""Weights of networks with other layers than lambda layers."""

from __future__ import annotations

import pytest
import torch

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.conversion import convert_file
from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError

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


def test_a_file_names_nothing_that_is_imported(saved) -> None:
    path, model = saved
    for entry in ("architecture", "hidden"):
        metadata = {entry: {"depth": 26, "variant": "resnet", "kind": "antigravity.fly"}}
        content = {"model": model.state_dict(), "lambda_det": metadata}
        with pytest.raises(InputError, match="name the config"):
            translate(path, content).architecture()
