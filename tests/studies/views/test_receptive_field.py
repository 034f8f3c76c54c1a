"""Receptive fields against finite differences and fields known by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer
from studies.views.receptive_field import radius_holding, receptive_field


class OneFeature(nn.Module):
    """A network with the one output ``res4``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers).double().eval()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"res4": self.layers(x)}


def random_image(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64)


def test_a_lambda_layer_by_finite_differences():
    torch.manual_seed(0)
    layer = LambdaLayer(3, 4, query_depth=2, num_heads=2, scope=3)
    network, image, step = OneFeature(layer), random_image(3, 5, 3), 1e-5
    field = receptive_field(network, image, "res4", (4, 1), channels=4)
    expected = np.zeros((5, 3))
    with torch.no_grad():
        for c, y, x in itertools.product(range(3), range(5), range(3)):
            ends = []
            for sign in (1, -1):
                moved = image.clone()
                moved[0, c, y, x] += sign * step
                ends.append(network(moved)["res4"][0, :, 4, 1])
            expected[y, x] += float(((ends[0] - ends[1]) / (2 * step)).abs().mean()) / 3
    np.testing.assert_allclose(field.numpy(), expected, rtol=1e-5, atol=1e-9)
    assert (field[0] > 0).all()  # the keys reach beyond the window of 3 x 3


def test_channels_are_drawn_once():
    network, image = OneFeature(nn.Conv2d(1, 40, 3, padding=1)), random_image(1, 7, 5)
    some = receptive_field(network, image, "res4", (3, 2), channels=5)
    assert torch.equal(some, receptive_field(network, image, "res4", (3, 2), channels=5))
    other = receptive_field(network, image, "res4", (3, 2), channels=5, seed=1)
    assert not torch.equal(some, other)
    everything = receptive_field(network, image, "res4", (3, 2), channels=99)
    assert everything[3, 2] == pytest.approx(
        network.layers[0].weight[:, 0, 1, 1].abs().mean().item()
    )
    assert image.grad is None and not image.requires_grad


@pytest.mark.parametrize(("feature", "position"), [("res9", (0, 0)), ("res4", (7, 0))])
def test_what_is_not_there(feature: str, position: tuple[int, int]):
    with pytest.raises(InputError, match=feature):
        network = OneFeature(nn.Conv2d(1, 1, 1))
        receptive_field(network, random_image(1, 7, 5), feature, position)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_radius_by_trying_every_one(share: float):
    field = random_image(1, 9, 7)[0, 0].abs()
    centre = (3.5, 2.0)
    distances = {
        (y, x): math.hypot(y - centre[0], x - centre[1])
        for y, x in itertools.product(range(9), range(7))
    }
    total = float(field.sum())
    expected = min(
        radius
        for radius in distances.values()
        if sum(float(field[at]) for at, d in distances.items() if d <= radius)
        >= share * total - 1e-12
    )
    assert radius_holding(field, centre, share) == pytest.approx(expected)


def test_radius_of_nothing_and_of_a_point():
    field = torch.zeros(5, 5)
    assert math.isnan(radius_holding(field, (2, 2)))
    field[2, 4] = 3
    assert radius_holding(field, (2, 2)) == 2
