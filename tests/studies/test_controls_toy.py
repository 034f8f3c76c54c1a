"""The controls on networks that really are trained: of one lambda block, on images of 8 x 8."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import pytest
import torch
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn

from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.backbone.residual_branches import mean_last_norms, zeroed
from lambda_det.comparison.controls import (
    IDLE,
    NO_BETTER,
    RESTS,
    UNKNOWN,
    verdict_of,
)
from lambda_det.comparison.statistics import paired_difference

SEEDS = (1, 2, 3)
SIDE, WIDTH = 5, 8


@dataclass(frozen=True)
class Recipe:
    """How a toy network is trained.

    Attributes:
        far: the class is which of two far-apart marks lies further right: no pixel shows it alone.
            Else it is which of two kinds of marks the image holds more of.
        steps: of Adam.
        frozen: the branch stays as it was drawn.
        zero_init: its last norm starts at 0.
        rate: learning rate.
        before: steps without the branch, from whose weights the training begins.
    """

    far: bool
    steps: int
    frozen: bool = False
    zero_init: bool = False
    rate: float = 0.01
    before: int = 0


NEEDED = Recipe(far=True, steps=80, rate=0.02)
FROZEN = Recipe(far=False, steps=60, frozen=True)
IDLE_START = Recipe(far=False, steps=10, zero_init=True, rate=1e-3, before=60)


class Stem(nn.Conv2d):
    """Of one pixel, so that nothing but the branch sees two of them."""

    def __init__(self) -> None:
        super().__init__(2, WIDTH, 1)
        self.stride = 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def network(recipe: Recipe, *, idle: bool) -> nn.Module:
    block = LambdaBottleneck(
        WIDTH, WIDTH, bottleneck_channels=WIDTH,
        lambda_layer={"scope": 2 * SIDE - 1, "num_heads": 2, "query_depth": 8},
        zero_init_residual=recipe.zero_init, idle=idle,
    )  # fmt: skip
    if recipe.frozen:
        for parameter in block.parameters():
            parameter.requires_grad_(False)
    stem = Stem()
    stem.out_channels = WIDTH
    return ResNet(stem, [[block]], num_classes=2)


def images(far: bool, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(number, 2, SIDE, SIDE) and classes (number,)."""
    x = torch.zeros(number, 2, SIDE, SIDE)
    rows = torch.randint(SIDE, (number, 2), generator=generator)
    if far:
        columns = torch.rand(number, SIDE, generator=generator).argsort(1)[:, :2]
        for kind in (0, 1):
            x[torch.arange(number), kind, rows[:, kind], columns[:, kind]] = 8
        return x, (columns[:, 1] > columns[:, 0]).long()
    x = torch.rand(number, 2, SIDE, SIDE, generator=generator)
    x += 0.2 * torch.randn(number, 2, 1, 1, generator=generator)
    means = x.mean((2, 3))
    return x, (means[:, 1] > means[:, 0]).long()


def trained(recipe: Recipe, seed: int, *, idle: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    model = network(recipe, idle=idle)
    if recipe.before:
        start = Recipe(far=recipe.far, steps=recipe.before)
        model.load_state_dict(trained(start, seed, idle=True).state_dict())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), recipe.rate)
    for _ in range(recipe.steps):
        x, classes = images(recipe.far, 32, generator)
        loss = nn.functional.cross_entropy(model(x)["linear"], classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def score(recipe: Recipe, model: nn.Module) -> float:
    """Percentage of new images that get their class."""
    x, classes = images(recipe.far, 1024, torch.Generator().manual_seed(100))
    return 100 * (model(x)["linear"].argmax(1) == classes).float().mean().item()


@dataclass
class Measured:
    """Seed -> score: of the whole network, with its branch zeroed, and of one trained without."""

    whole: dict[int, float]
    zeroed: dict[int, float]
    without: dict[int, float]
    last_norm: float

    def verdict(self, seeds: tuple[int, ...] = SEEDS, *, controlled: bool = True) -> str | None:
        whole = {seed: self.whole[seed] for seed in seeds}
        row = {
            "controls": ["zeroed"],
            "box_ap": {"mean": statistics.fmean(whole.values())},
            "box_ap_over_zeroed": paired_difference(whole, self.zeroed),
        }
        if controlled:
            row["box_ap_over_trained_without"] = paired_difference(whole, self.without)
        return verdict_of(row, "box")


def measure(recipe: Recipe) -> Measured:
    whole, without, closed, norms = {}, {}, {}, []
    for seed in SEEDS:
        model = trained(recipe, seed)
        norms.append(mean_last_norms(model)["res2"])
        whole[seed] = score(recipe, model)
        with zeroed(model, ["res2"]):
            closed[seed] = score(recipe, model)
        without[seed] = score(recipe, trained(recipe, seed, idle=True))
    return Measured(whole, closed, without, statistics.fmean(norms))


@pytest.fixture(scope="module")
def found() -> dict[str, Measured]:
    recipes = {"needed": NEEDED, "frozen": FROZEN, "idle": IDLE_START}
    return {name: measure(recipe) for name, recipe in recipes.items()}


def lost(measured: Measured) -> list[float]:
    return [measured.whole[seed] - measured.zeroed[seed] for seed in SEEDS]


def test_a_branch_that_the_task_needs_is_found_useful(found):
    needed = found["needed"]
    assert min(needed.whole.values()) > 75 and max(needed.without.values()) < 55
    assert needed.verdict() == RESTS
    assert needed.verdict(SEEDS[:1]) == UNKNOWN  # of one seed there is no interval
    assert needed.verdict(controlled=False) == UNKNOWN  # random branches are missed as much


def test_an_idle_branch_is_found(found):
    idle = found["idle"]
    assert 0 < idle.last_norm < 0.01  # it was trained, and is not yet open
    assert min(idle.whole.values()) > 90 and max(map(abs, lost(idle))) < 0.5
    assert idle.verdict() == idle.verdict(SEEDS[:1]) == idle.verdict(controlled=False) == IDLE


def test_a_frozen_random_branch_is_not_taken_for_a_useful_one(found):
    frozen = found["frozen"]
    assert min(lost(frozen)) > 5 and statistics.fmean(lost(frozen)) > 15
    assert min(frozen.without.values()) > 90
    assert frozen.verdict() == frozen.verdict(SEEDS[:1]) == NO_BETTER
    assert frozen.verdict(controlled=False) == UNKNOWN
