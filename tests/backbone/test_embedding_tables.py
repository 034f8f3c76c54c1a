"""Position embeddings of a whole backbone: shared tables and the global scope."""

from __future__ import annotations

import pytest
import torch
from backbone_helpers import build_on_meta, image, randomise
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError

RES4 = {"res4": "all"}


def tables(backbone: nn.Module) -> dict[str, Tensor]:
    """Name of every lambda block -> its table."""
    return {
        f"{stage}.{number}": block.lambda_layer.embedding
        for stage in ("res2", "res3", "res4", "res5")
        for number, block in enumerate(getattr(backbone, stage), start=1)
        if block.lambda_layer is not None
    }


def test_a_stage_shares_one_table_at_each_resolution() -> None:
    backbone = build_on_meta(
        50, "resnet", stem="v1", shared_embeddings=True, lambda_blocks=dict.fromkeys(
            ("res2", "res3", "res4", "res5"), "all"
        ),
    )  # fmt: skip
    found = tables(backbone)
    groups = [[name for name in found if found[name] is found[first]] for first in found]
    # The first block of res3, res4 and res5 works before its pooling, at the stage before's size.
    expected = [
        ["res2.1", "res2.2", "res2.3"],
        ["res3.1"],
        ["res3.2", "res3.3", "res3.4"],
        ["res4.1"],
        ["res4.2", "res4.3", "res4.4", "res4.5", "res4.6"],
        ["res5.1"],
        ["res5.2", "res5.3"],
    ]
    assert sorted({tuple(group) for group in groups}) == sorted(map(tuple, expected))
    own = build_on_meta(50, "lambda_full")
    shared = build_on_meta(50, "lambda_full", shared_embeddings=True)
    difference = sum(p.numel() for p in own.parameters()) - sum(
        p.numel() for p in shared.parameters()
    )
    assert difference == (9 - 4) * 16 * 23 * 23


def test_shared_tables_compute_like_equal_tables() -> None:
    """The same numbers as layers of their own, and the sum of their gradients."""
    torch.manual_seed(0)
    arguments = {"scope": 5, "lambda_blocks": RES4, "out_features": ("res4",)}
    shared = build_lambda_resnet(50, "lambda", shared_embeddings=True, **arguments).double().eval()
    randomise(shared)
    own = build_lambda_resnet(50, "lambda", **arguments).double().eval()
    own.load_state_dict(shared.state_dict())
    x = image(1, 3, 65, 97).double()
    outputs = [backbone(x)["res4"] for backbone in (shared, own)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    total = sum(block.lambda_layer.embedding.grad for block in own.res4[1:])
    assert total.abs().max() > 0
    torch.testing.assert_close(shared.res4[3].lambda_layer.embedding.grad, total)


@pytest.mark.parametrize("size", [(97, 131), (64, 131), (70, 33)], ids=str)
def test_global_scope_of_a_backbone(size: tuple[int, int]) -> None:
    """The same as windows that reach over the whole image, cut out of the tables."""
    torch.manual_seed(0)
    arguments = {"out_features": ("res5",), "lambda_blocks": {"res4": [1, 3]}}
    wide = build_lambda_resnet(50, "lambda", scope="global", max_size=(97, 131), **arguments)
    wide = wide.double().eval()
    randomise(wide)
    local = build_lambda_resnet(50, "lambda", scope=51, **arguments).double().eval()
    state = wide.state_dict()
    for name, tensor in state.items():
        if name.endswith("embedding"):  # (2H - 1) x (2W - 1), zeros around it up to 51 x 51
            rows, columns = ((51 - side) // 2 for side in tensor.shape[-2:])
            state[name] = nn.functional.pad(tensor, (columns, columns, rows, rows))
    local.load_state_dict(state)
    x = image(1, 3, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(wide(x)["res5"], local(x)["res5"])


@pytest.mark.parametrize("size", [(98, 131), (97, 132), (300, 40)], ids=str)
def test_global_scope_on_a_larger_image(size: tuple[int, int]) -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_lambda_resnet_backbone", 0
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 50
    cfg.MODEL.LAMBDA_RESNET.LAYER.SCOPE = 0
    cfg.MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE = [97, 131]
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        assert backbone(torch.empty(1, 3, 97, 131))["res5"].shape == (1, 2048, 4, 5)
        with pytest.raises(InputError) as error:
            backbone(torch.empty(1, 3, *size))
    message = str(error.value)
    assert f"{size[0]}x{size[1]}" in message and "(97, 131)" in message
    assert "MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE" in message and "\n" not in message


def test_without_lambda_layers_a_global_scope_limits_nothing() -> None:
    backbone = build_on_meta(50, "resnet", scope="global", max_size=(32, 32))
    output = backbone(torch.empty(1, 3, 64, 64, device="meta"))
    assert output["res5"].shape == (1, 2048, 2, 2)
