"""FREEZE_AT: what is frozen, what stays so, and what is frozen without weights."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from backbone_helpers import STAGES, build_on_meta, image
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import check_frozen_weights
from lambda_det.errors import InputError

ORDER = ("stem", *STAGES)


def frozen_names(backbone: nn.Module, stages: tuple[str, ...]) -> set[str]:
    """What a checkpoint holds for these stages; a counter of batches is no weight."""
    return {
        name
        for name in backbone.state_dict()
        if name.split(".")[0] in stages and not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("freeze_at", range(6))
@pytest.mark.parametrize(("variant", "stem"), [("lambda", "rs"), ("se", "v1")])
def test_exactly_the_first_stages_are_frozen(variant: str, stem: str, freeze_at: int) -> None:
    arguments = {"stem": stem, "num_classes": 3, "se_stages": STAGES}
    if variant == "lambda":
        arguments["lambda_blocks"] = dict.fromkeys(STAGES, "all")
    backbone = build_on_meta(50, variant, freeze_at=freeze_at, **arguments)
    unfrozen = build_on_meta(50, variant, **arguments)
    stages = ORDER[:freeze_at]
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in stages), name
    for name, module in unfrozen.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            kind = FrozenBatchNorm2d if name.split(".")[0] in stages else nn.BatchNorm2d
            assert isinstance(backbone.get_submodule(name), kind), name
    without_counters = frozen_names(unfrozen, (*ORDER, "linear"))
    assert frozen_names(backbone, (*ORDER, "linear")) == without_counters


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN", "FrozenBN"])
def test_other_batch_norms_are_frozen_too(norm: str) -> None:
    backbone = build_on_meta(50, "lambda", norm=norm, freeze_at=5)
    kinds = {type(m).__name__ for m in backbone.modules() if "Norm" in type(m).__name__}
    assert kinds == {"FrozenBatchNorm2d"}
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.fixture()
def small() -> nn.Module:
    """Stem and res2, a lambda layer and SE in it, the stem and res2 frozen; res3 is not."""
    torch.manual_seed(0)
    return build_lambda_resnet(
        50,
        "lambda",
        scope=3,
        freeze_at=2,
        lambda_blocks={"res2": [2]},
        out_features=("res2", "res3"),
    )


def test_training_does_not_touch_what_is_frozen(small: nn.Module) -> None:
    before = copy.deepcopy(small.state_dict())
    small.train()
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], lr=0.1)
    small(image(2, 3, 33, 40))["res3"].square().mean().backward()
    optimizer.step()
    frozen = frozen_names(small, ("stem", "res2"))
    for name, tensor in small.state_dict().items():
        if name in frozen:
            assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for n, p in small.named_parameters() if n in frozen)
    assert not torch.equal(
        small.state_dict()["res3.0.conv1.norm.running_mean"],
        before["res3.0.conv1.norm.running_mean"],
    )


def test_freeze_again_later() -> None:
    backbone = build_lambda_resnet(50, "resnet", out_features=("res3",))
    assert backbone.frozen_without_weights() == []
    assert backbone.freeze(1) is backbone
    assert set(backbone.frozen_without_weights()) == frozen_names(backbone, ("stem",))
    backbone.freeze(2)
    assert set(backbone.frozen_without_weights()) == frozen_names(backbone, ("stem", "res2"))
    backbone.freeze(0)  # detectron2's freeze never thaws
    assert set(backbone.frozen_without_weights()) == frozen_names(backbone, ("stem", "res2"))


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone.bottom_up."])
def test_loading_into_a_whole_model(small: nn.Module, prefix: str) -> None:
    model = small
    for name in reversed(prefix.split(".")[:-1]):
        model = nn.ModuleDict({name: model})
    model.load_state_dict({f"{prefix}{name}": t for name, t in small.state_dict().items()})
    assert small.frozen_without_weights() == []


def test_partial_weights(small: nn.Module) -> None:
    stem = {name: t for name, t in small.state_dict().items() if name.startswith("stem.")}
    small.load_state_dict(stem, strict=False)
    assert set(small.frozen_without_weights()) == frozen_names(small, ("res2",))
    # What two files fill together is filled.
    rest = {name: t for name, t in small.state_dict().items() if name.startswith("res2.")}
    rest.pop("res2.1.lambda_layer.embedding")
    small.load_state_dict(rest, strict=False)
    assert small.frozen_without_weights() == ["res2.1.lambda_layer.embedding"]


def test_weights_of_another_shape_fill_nothing(small: nn.Module) -> None:
    weights = dict(small.state_dict())
    weights["res2.1.lambda_layer.embedding"] = torch.zeros(16, 1, 5, 5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        small.load_state_dict(weights)
    assert "res2.1.lambda_layer.embedding" in small.frozen_without_weights()


def test_copies_are_independent(small: nn.Module) -> None:
    twin = copy.deepcopy(small)
    twin.load_state_dict(twin.state_dict())
    assert twin.frozen_without_weights() == []
    assert set(small.frozen_without_weights()) == frozen_names(small, ("stem", "res2"))
    assert copy.deepcopy(twin).frozen_without_weights() == []


def test_loading_through_a_checkpoint_file(small: nn.Module, tmp_path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": small.state_dict()}, path)
    model = nn.ModuleDict({"backbone": small})
    DetectionCheckpointer(model).load(str(path))
    assert small.frozen_without_weights()  # the file's names have no prefix
    torch.save({"model": model.state_dict()}, path)
    DetectionCheckpointer(model).load(str(path))
    assert small.frozen_without_weights() == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_warning_at_the_first_training_forward(small: nn.Module, caplog) -> None:
    x = image(2, 3, 32, 32)
    twin = copy.deepcopy(small)
    small.eval()(x)
    assert warnings(caplog) == []
    small.train()(x)
    (message,) = warnings(caplog)
    assert "MODEL.BACKBONE.FREEZE_AT" in message and "\n" not in message
    small(x)
    small.eval()(x)
    small.train()(x)
    assert len(warnings(caplog)) == 1
    twin.train()(x)
    twin(x)
    assert len(warnings(caplog)) == 2


@pytest.mark.parametrize(("loaded", "most"), [((), 0), (("stem",), 1), (("stem", "res2"), 2)])
def test_errors_name_the_most_that_can_be_frozen(loaded: tuple, most: int) -> None:
    arguments = {"freeze_at": 3, "lambda_blocks": {"res3": "all"}, "out_features": ("res3",)}
    backbone = build_lambda_resnet(50, "resnet", **arguments)
    state = {n: t for n, t in backbone.state_dict().items() if n.split(".")[0] in loaded}
    backbone.load_state_dict(state, strict=False)
    assert backbone.most_to_freeze() == most
    with pytest.raises(InputError, match=rf"set MODEL\.BACKBONE\.FREEZE_AT to (at most )?{most}$"):
        check_frozen_weights(nn.ModuleDict({"backbone": backbone}), "w.pth")
    if most == 2:
        backbone.load_state_dict(backbone.state_dict())
        assert backbone.most_to_freeze() == 3
