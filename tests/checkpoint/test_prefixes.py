"""Whose names they are is seen through any prefix."""

from __future__ import annotations

import pytest
import torch

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint.layouts import find_layout
from lambda_det.checkpoint.name_maps import DLI14, TORCHVISION
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError

TORCHVISION_NAMES = ["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.2.bn3.bias"]
OWN_NAMES = ["stem.conv1.weight", "res2.0.conv1.weight", "res5.2.lambda_layer.embedding"]
PREFIXES = ["", "module.", "backbone.", "backbone.bottom_up.", "module.backbone.bottom_up.",
            "model.", "_orig_mod.module.", "backbone.body.", "encoder."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefix(prefix: str) -> None:
    for names, name_map in ((TORCHVISION_NAMES, TORCHVISION), (OWN_NAMES, None)):
        others = ["proposal_generator.conv.weight", "backbone.fpn_lateral2.weight", "fc.weight"]
        layout = find_layout([prefix + name for name in names] + others)
        assert (layout.name_map, layout.prefix) == (name_map, prefix)


def test_more_known_names_decide() -> None:
    names = [*TORCHVISION_NAMES, "layer1.0.conv2.conv_qkv.weight", "layer1.0.conv2.norm_q.bias"]
    assert find_layout(names).name_map is DLI14
    assert find_layout(["patch_embed.weight", "blocks.0.attn.qkv.weight", "head.weight"]) is None


def test_averaged_weights_are_preferred_and_two_networks_refused() -> None:
    def both(a: str, b: str):
        return find_layout([p + name for p in (a, b) for name in OWN_NAMES])

    assert both("model.", "ema.module.").prefix == "ema.module."
    with pytest.raises(InputError, match=r"'student' \(3 tensors\), 'teacher' \(3 tensors\)"):
        both("student.", "teacher.")


def test_heads_keep_their_names_without_the_wrapper() -> None:
    state = build_lambda_resnet(50, "resnet", out_features=("res2",)).state_dict()
    detector = {f"module.backbone.bottom_up.{name}": tensor for name, tensor in state.items()}
    detector["module.backbone.fpn_lateral2.weight"] = torch.ones(3)
    detector["module.roi_heads.box_head.fc1.weight"] = torch.ones(2)
    detector["module.pixel_mean"] = torch.ones(3, 1, 1)
    source = translate("file", {"model": detector})
    counted = {name for name in state if not name.endswith("num_batches_tracked")}
    assert set(source.tensors) == counted
    assert set(source.others) == {
        "backbone.fpn_lateral2.weight", "roi_heads.box_head.fc1.weight"
    }  # fmt: skip
