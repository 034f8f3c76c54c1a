"""The LambdaResNet family as data (LambdaNetworks, arXiv:2102.08602; ResNet-RS, 2103.07579)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lambda_det.errors import InputError, check_choice

STAGES = ("res2", "res3", "res4", "res5")

BOTTOM_UP_PARTS = ("stem", *STAGES)
"""Parts of the bare backbone, in the order of the forward pass."""

BLOCKS_PER_STAGE: dict[int, tuple[int, int, int, int]] = {
    26: (2, 2, 2, 2),  # not in the papers: timm's small lambda networks
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
"""Depth -> number of bottlenecks in res2, res3, res4, res5."""

FAMILY_DEPTHS = tuple(depth for depth in BLOCKS_PER_STAGE if depth >= 50)
"""The depths of the papers. Depth 26 exists for weights of timm only."""

RES4_LAMBDA_BLOCKS: dict[int, tuple[int, ...]] = {
    26: (2,),  # as in timm: the second of two blocks
    50: (3,),
    101: (6, 12, 18),
    152: (5, 10, 15, 20, 25, 30),
    200: (5, 10, 15, 20, 25, 30),
    270: (8, 16, 24, 32, 40, 48),
    350: (10, 20, 30, 40, 50, 60),
    420: (10, 20, 30, 40, 50, 60, 70, 80),
}
"""Depth -> blocks of res4 that have a lambda layer in the hybrids, counted from 1. The numbers are
the paper's. That they count from 1 is our reading: the paper does not say so, another
implementation takes them as indices from 0, and the parameter counts are the same either way."""

BlockChoice = Literal["all"] | Sequence[int]


@dataclass(frozen=True)
class Variant:
    """Which bottlenecks have a lambda layer, and which stages use squeeze-and-excitation (SE)."""

    se_stages: tuple[str, ...] = ()
    """Stages with SE in every block."""
    lambda_stages: tuple[str, ...] = ()
    """Stages in which every block has a lambda layer."""
    res4_list: bool = False
    """Whether the blocks of :data:`RES4_LAMBDA_BLOCKS` have a lambda layer."""


VARIANTS: dict[str, Variant] = {
    "resnet": Variant(),
    "se": Variant(se_stages=STAGES),
    # SE in res2 and res3 only: no other reading gives all the published parameter counts.
    "lambda": Variant(se_stages=("res2", "res3"), lambda_stages=("res5",), res4_list=True),
    "lambda_full": Variant(se_stages=("res2", "res3"), lambda_stages=("res4", "res5")),
}


def lambda_block_flags(
    depth: int, variant: str, overrides: Mapping[str, BlockChoice | None] | None = None
) -> dict[str, list[bool]]:
    """Tell for every block of every stage whether it has a lambda layer instead of the 3x3
    convolution.

    Args:
        depth: a key of :data:`BLOCKS_PER_STAGE`.
        variant: a key of :data:`VARIANTS`.
        overrides: stage -> 1-based block numbers, ``"all"`` or ``[]``; a stage that is absent or
            None keeps the variant's blocks.

    Returns:
        Stage -> one flag for each of its blocks.

    Raises:
        InputError: the depth, the variant or a stage is unknown, or a block number is out of range.
    """
    check_choice("depth", depth, BLOCKS_PER_STAGE)
    check_choice("variant", variant, VARIANTS)
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, Mapping):
        raise InputError(f"lambda_blocks={overrides!r}: expected stage -> block numbers")
    check_stages("lambda_blocks", overrides)
    flags = {}
    for stage, num_blocks in zip(STAGES, BLOCKS_PER_STAGE[depth], strict=True):
        choice = overrides.get(stage)
        if choice is None:
            choice = _variant_choice(depth, VARIANTS[variant], stage)
        flags[stage] = _flags(stage, num_blocks, choice)
    return flags


def se_stages_of(variant: str, override: Collection[str] | None = None) -> tuple[str, ...]:
    """The stages with squeeze-and-excitation: ``override``, or the variant's if that is None.

    Raises:
        InputError: the variant or a stage is unknown.
    """
    check_choice("variant", variant, VARIANTS)
    if override is None:
        return VARIANTS[variant].se_stages
    check_stages("se_stages", override)
    return tuple(stage for stage in STAGES if stage in override)


def check_stages(name: str, stages: Collection[str]) -> None:
    """Raise InputError if ``stages`` is not a collection of names among res2 ... res5.

    Args:
        name: the argument's name, for the message.
        stages: the argument's value.
    """
    if isinstance(stages, str) or not isinstance(stages, Collection):
        raise InputError(f"{name}={stages!r}: expected a list of stages")
    for stage in stages:
        if stage not in STAGES:
            allowed = ", ".join(map(repr, STAGES))
            raise InputError(f"{name}: unknown stage {stage!r}, expected one of {allowed}")


def _variant_choice(depth: int, variant: Variant, stage: str) -> BlockChoice:
    if stage in variant.lambda_stages:
        return "all"
    return RES4_LAMBDA_BLOCKS[depth] if stage == "res4" and variant.res4_list else ()


def _flags(stage: str, num_blocks: int, choice: BlockChoice) -> list[bool]:
    if choice == "all":
        return [True] * num_blocks
    if isinstance(choice, str) or not isinstance(choice, Sequence):
        raise InputError(f"lambda_blocks[{stage!r}]={choice!r}: expected 'all' or block numbers")
    for number in choice:
        if type(number) is not int or not 1 <= number <= num_blocks:
            raise InputError(
                f"lambda_blocks[{stage!r}]: block {number!r} is out of range, {stage} has blocks "
                f"1 to {num_blocks}"
            )
    return [block in choice for block in range(1, num_blocks + 1)]
