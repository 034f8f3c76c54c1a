"""The networks of the study: what is changed is where it should be, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lambda_det.backbone.residual_branches import mean_last_norms
from lambda_det.layers import LambdaLayer
from studies.evidence.networks import (
    NETWORKS,
    Depthwise,
    build_network,
    lambda_blocks,
    moved,
    multiply_adds,
    parameters,
    windows,
)

USUAL = ["res4.1", "res5.0", "res5.1"]
WITHOUT = ("resnet", "se", "resnet_50")


class Nothing(nn.Module):
    def forward(self, x, padding_mask=None):
        return x


def layers(name: str) -> dict[str, nn.Module]:
    blocks = lambda_blocks(build_network(name).fpn.bottom_up)
    return {block: module.lambda_layer for block, module in blocks.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_stand_where_they_should(name):
    places = {"res4_only": ["res4.1"], "res5_only": ["res5.1"]} | {key: [] for key in WITHOUT}
    found = layers(name)
    assert list(found) == places.get(name, USUAL)
    for layer in found.values():
        assert isinstance(layer, Depthwise if name == "depthwise" else LambdaLayer)
        if name == "depthwise":
            assert layer.weight.shape == (layer.in_channels, 1, 23, 23) and layer.bias is None
            continue
        assert layer.content == (name != "position") and layer.position == (name != "content")


@pytest.mark.parametrize(
    "name, sides",
    [
        ("lambda", [23, 23, 23]), ("scope_3", [3, 3, 3]), ("scope_7", [7, 7, 7]),
        ("scope_15", [15, 15, 15]), ("scope_global", [23, 23, 11]), ("content", []),
        # of an image of 192 pixels: 2 * 12 - 1 entries at stride 16, 2 * 6 - 1 at stride 32
    ],
)  # fmt: skip
def test_scopes(name, sides):
    assert [table.shape[-1] for table in windows(build_network(name)).values()] == sides


def test_branches_start_open_but_for_one():
    for name in ("lambda", "resnet", "zero_init"):
        norms = mean_last_norms(build_network(name).fpn.bottom_up)
        assert set(norms.values()) == ({0} if name == "zero_init" else {1}), name


def test_a_network_with_the_same_seed_has_the_weights_of_lambda_where_it_has_its_layers():
    """So that what is frozen is the only difference."""
    states = {}
    for name in ("lambda", "frozen_layer", "frozen_embedding"):
        torch.manual_seed(4)
        states[name] = build_network(name).state_dict()
    for name, tensor in states["lambda"].items():
        assert torch.equal(tensor, states["frozen_layer"][name])
        assert torch.equal(tensor, states["frozen_embedding"][name])


@pytest.mark.parametrize(
    "name, is_frozen",
    [
        ("frozen_embedding", lambda parameter: parameter.endswith("lambda_layer.embedding")),
        ("frozen_layer", lambda parameter: ".lambda_layer." in parameter),
        ("depthwise", lambda _: False),
        ("lambda", lambda _: False),
    ],
)
def test_what_is_frozen_has_no_gradient_and_the_rest_has(name, is_frozen):
    net = build_network(name)
    logits = net(torch.randn(2, 3, 64, 64), [torch.tensor([[4.0, 4, 30, 30]])] * 2)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    frozen = [n for n, p in net.named_parameters() if p.grad is None]
    # The head looks at p2: nothing reaches the outputs of the other levels.
    unseen = [n for n, _ in net.named_parameters() if n.startswith("fpn.fpn_output")]
    unseen = [n for n in unseen if "output2" not in n]
    assert set(frozen) - set(unseen) == {n for n, _ in net.named_parameters() if is_frozen(n)}
    counted = [b for n, b in net.named_buffers() if "lambda_layer.value_norm.num_batches" in n]
    assert all(count == 1 for count in counted), "statistics follow the training"
    assert len(counted) == (0 if name == "depthwise" else 3)


def test_depthwise_is_the_sum_as_written_and_sees_no_padding():
    torch.manual_seed(0)
    layer = Depthwise(3).double()
    x = torch.randn(2, 3, 5, 9, dtype=torch.float64)
    mask = torch.zeros(2, 5, 9, dtype=torch.bool)
    mask[1, 3:] = mask[1, :, 7:] = True
    result = layer(x, mask).detach().numpy()
    expected = np.zeros((2, 3, 5, 9))
    for n, c, i, j in np.ndindex(expected.shape):
        for y, z in np.ndindex(5, 9):
            if not mask[n, y, z]:
                weight = layer.weight[c, 0, y - i + 11, z - j + 11].item()
                expected[n, c, i, j] += weight * x[n, c, y, z].item()
    assert np.abs(result - expected).max() < 1e-12
    assert torch.equal(layer(x), layer(x, torch.zeros_like(mask)))


def test_counts_are_those_of_the_layers():
    """Against the same network with nothing in the place of its layers."""
    net = build_network("depthwise")
    counted, added, adds = parameters(net), multiply_adds(net, 64, 96), 0
    for name, (height, width) in {"res4.1": (4, 6), "res5.0": (4, 6), "res5.1": (2, 3)}.items():
        channels = 256 if name.startswith("res4") else 512
        counted -= 529 * channels
        adds += 529 * channels * height * width
    for block in lambda_blocks(net.fpn).values():
        block.lambda_layer = Nothing()
    assert parameters(net) == counted == sum(p.numel() for p in net.fpn.parameters())
    assert multiply_adds(net, 64, 96) == added - adds
    assert all(parameter.device.type == "cpu" for parameter in net.parameters())
    # A frozen parameter counts as well: it is there.
    assert parameters(build_network("frozen_layer")) == parameters(build_network("lambda"))


def test_moved_is_what_a_scaling_does_not_give():
    torch.manual_seed(0)
    before = torch.randn(16, 1, 23, 23)
    assert moved(before, 0.7 * before) < 1e-6
    across = torch.randn_like(before)
    across -= (across * before).sum() / before.square().sum() * before
    across *= before.norm() / across.norm()
    assert moved(before, 0.9 * before + 0.25 * across) == pytest.approx(0.25, abs=1e-5)
