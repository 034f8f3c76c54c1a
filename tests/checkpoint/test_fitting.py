"""Which blocks start as their shortcut."""

from __future__ import annotations

import pytest
import torch

from lambda_det.checkpoint.fitting import last_norms_of_random_blocks

NAMES = [
    *(f"res5.1.lambda_layer.{n}" for n in ("embedding", "query.weight", "value.weight")),
    "res5.1.lambda_layer.key.weight",
    "res5.1.lambda_layer.position_bias",
    "res5.1.lambda_layer.norm_q.weight",
    "res5.1.conv3.norm.weight",
    "res4.0.conv2.weight",
    "res4.0.conv2.norm.weight",
    "res4.0.conv3.norm.weight",
]


@pytest.mark.parametrize(
    ("lacks", "zero"),
    [
        ("res5.1.lambda_layer.embedding", ["res5.1.conv3.norm.weight"]),
        ("res5.1.lambda_layer.query.weight", ["res5.1.conv3.norm.weight"]),
        ("res5.1.lambda_layer.value.weight", ["res5.1.conv3.norm.weight"]),
        ("res4.0.conv2.weight", ["res4.0.conv3.norm.weight"]),
        ("res5.1.lambda_layer.position_bias", []),
        ("res5.1.lambda_layer.norm_q.weight", []),
        ("res4.0.conv2.norm.weight", []),
    ],
)
def test_a_block_is_random_without_the_tensors_that_make_its_middle(lacks: str, zero: list) -> None:
    tensors = {name: torch.ones(1) for name in NAMES if name != lacks}
    assert last_norms_of_random_blocks(tensors, NAMES) == zero
