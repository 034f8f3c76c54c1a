"""How a residual branch starts, how far it is open, and the network without it."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.residual_branches import (
    closed_branches,
    last_norm,
    mean_last_norms,
    zeroed,
)
from lambda_det.errors import InputError

VARIANTS = ("resnet", "se", "lambda")


@pytest.fixture
def image():
    return torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(3))


def network(variant="lambda", **arguments):
    torch.manual_seed(5)
    return build_lambda_resnet(26, variant, **{"scope": 5, **arguments})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_last_norms_start_at_zero_or_one(variant, norm):
    assert mean_last_norms(network(variant, norm=norm)) == dict.fromkeys(
        ("res2", "res3", "res4", "res5"), 0.0
    )
    open_ = network(variant, norm=norm, zero_init_residual=False)
    assert set(mean_last_norms(open_).values()) == {1.0}


def test_nothing_but_the_last_norms_depends_on_how_they_start():
    one, other = network().state_dict(), network(zero_init_residual=False).state_dict()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert len(different) == 8
    assert all(name.endswith("conv3.norm.weight") for name in different)


def test_closed_branches_are_counted():
    model = network(zero_init_residual=False)
    assert closed_branches(model) == (0, 8)
    nn.init.zeros_(model.res4[1].conv3.norm.weight)
    assert closed_branches(nn.Sequential(model)) == (1, 8)
    assert closed_branches(network()) == (8, 8)
    # What is held at 0 on purpose says nothing of how the others start.
    assert closed_branches(network(idle_stages=["res4", "res5"])) == (4, 4)
    assert closed_branches(nn.Linear(2, 2)) == (0, 0)


def test_mean_is_of_all_channels_and_of_either_sign():
    model = network(zero_init_residual=False)
    model.res3[0].conv3.norm.weight.data[:256] = -3.0
    assert mean_last_norms(model)["res3"] == pytest.approx((256 * 3 + 768) / 1024)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", ["BN", "GN", "FrozenBN"])
@pytest.mark.parametrize("training", [True, False])
def test_zeroed_stage_is_its_shortcuts(variant, norm, training, image):
    model = network(variant, norm=norm, zero_init_residual=False).train(training)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            nn.init.uniform_(module.bias.data, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad(), zeroed(model, ["res4"]):
        x = model.res3(model.res2(model.stem(image)))
        found = model.res4(x)
        expected = x
        for block in model.res4:
            if block.shortcut_pool is not None:
                expected = block.shortcut_pool(expected)
            expected = (expected if block.shortcut is None else block.shortcut(expected)).relu()
        assert mean_last_norms(model)["res4"] == 0
        assert mean_last_norms(model)["res5"] == 1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for name in before:  # put back, to the bit
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(model.state_dict()[name], before[name])


def test_zeroed_is_put_back_after_an_error():
    model = network(zero_init_residual=False)
    with pytest.raises(RuntimeError, match="inside"), zeroed(model, ["res5"]):
        raise RuntimeError("inside")
    assert mean_last_norms(model)["res5"] == 1


def test_basic_blocks_of_detectron2_end_with_conv2():
    stages = [ResNet.make_stage(BasicBlock, 2, in_channels=64, out_channels=64, norm="BN")]
    model = ResNet(BasicStem(), stages, out_features=["res2"])
    assert mean_last_norms(model) == {"res2": 1.0}
    with zeroed(model, ["res2"]):
        assert last_norm(model.res2[1]) is model.res2[1].conv2.norm
        assert mean_last_norms(model) == {"res2": 0.0}


def test_stage_that_cannot_be_zeroed():
    with (
        pytest.raises(InputError, match=r"'res6'.*res2, res3, res4, res5"),
        zeroed(network(), ["res6"]),
    ):
        pass
    with pytest.raises(InputError, match="no ResNet"), zeroed(nn.Linear(2, 2), ["res4"]):
        pass
    with pytest.raises(InputError, match="without a norm"), zeroed(network(norm=""), ["res4"]):
        pass


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stem", ["rs", "v1"])
@pytest.mark.parametrize("training", [True, False])
def test_idle_stages_are_the_zeroed_ones(variant, stem, training, image):
    idle = network(
        variant, stem=stem, zero_init_residual=False, idle_stages=["res4", "res5"]
    ).train(training)
    whole = network(variant, stem=stem, zero_init_residual=False).train(training)
    with zeroed(whole, ["res4", "res5"]):
        expected = whole(image)
        found = idle(image)
        for name, feature in expected.items():
            torch.testing.assert_close(found[name], feature, rtol=1e-6, atol=1e-6)
        if not training:
            return
        (sum(f.square().mean() for f in expected.values())).backward()
        (sum(f.square().mean() for f in found.values())).backward()
    theirs = dict(whole.named_parameters())
    for name, parameter in idle.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["BN", "GN", "FrozenBN", ""])
def test_idle_branch_is_not_trained_and_adds_nothing_wherever_it_is_loaded(norm, image):
    model = network(norm=norm, zero_init_residual=False, idle_stages=["res5"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad and n.startswith("res5")}
    assert trained and all(".shortcut." in name for name in trained)
    assert all(p.requires_grad for n, p in model.named_parameters() if n.startswith("res4"))
    other = network(norm=norm, zero_init_residual=False)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, feature in model.eval()(image).items():
            torch.testing.assert_close(other.eval()(image)[name], feature, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", ""])
def test_idle_branch_stays_so_when_weights_are_loaded(norm):
    """Whose last norms are those of a trained network."""
    trained = network(norm=norm, zero_init_residual=False).state_dict()
    model = network(norm=norm, idle_stages=["res5"])
    model.load_state_dict(trained)
    last = [block.conv3 if block.conv3.norm is None else block.conv3.norm for block in model.res5]
    assert not any(module.weight.any() for module in last)
    assert torch.equal(model.res5[1].conv1.weight, trained["res5.1.conv1.weight"])
    assert torch.equal(model.res4[1].conv3.weight, trained["res4.1.conv3.weight"])
    copied = copy.deepcopy(model)
    copied.load_state_dict(trained)
    assert set(mean_last_norms(copied).values()) <= {0.0, 1.0}
    other = network(norm=norm)
    other.load_state_dict(copied.state_dict())
    assert not any((b.conv3.norm or b.conv3).weight.any() for b in other.res5)


def test_norm_without_a_bias_is_zeroed():
    model = network(norm=lambda channels: ScaleOnly(channels), zero_init_residual=False)
    with zeroed(model, ["res4"]):
        assert mean_last_norms(model)["res4"] == 0
    assert mean_last_norms(model)["res4"] == 1


class ScaleOnly(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return x * self.weight.view(-1, 1, 1)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_idle_block_leaves_its_input_alone(activation):
    block = network(activation=activation, idle_stages=["res4"]).res4[1]
    x = torch.randn(1, 1024, 5, 7, requires_grad=True)
    kept = x.detach().clone()
    (block(x) ** 2).sum().backward()
    assert torch.equal(x.detach(), kept) and x.grad is not None


def test_wrong_idle_stage():
    with pytest.raises(InputError, match="idle_stages: unknown stage 'res1'"):
        network(idle_stages=["res1"])
