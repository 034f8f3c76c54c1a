"""What several tests of the backbone need."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
CHANNELS = {"stem": 64, "res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
BLOCKS = {  # paper.md section 2
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}


_built: dict[str, nn.Module] = {}


def build_on_meta(depth: int, variant: str, **arguments) -> nn.Module:
    """Built without memory for weights, once for all tests: for names, shapes and types."""
    key = f"{depth} {variant} {sorted(arguments.items())}"
    if key not in _built:
        with torch.device("meta"):
            _built[key] = build_lambda_resnet(depth, variant, **arguments)
    return _built[key]


def million_parameters(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 3)


def lambda_blocks(backbone: nn.Module) -> dict[str, list[int]]:
    """Stage -> 1-based numbers of the blocks that have parameters of a lambda layer."""
    return {
        stage: [
            number
            for number, block in enumerate(getattr(backbone, stage), start=1)
            if any(name.startswith("lambda_layer.") for name in block.state_dict())
        ]
        for stage in STAGES
        if hasattr(backbone, stage)
    }


def feature_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Every strided step rounds up, which together is one rounding up."""
    return math.ceil(height / stride), math.ceil(width / stride)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Norms away from 0 and 1, so that nothing cancels and no branch is off."""
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear) or not hasattr(child, "bias"):
            continue
        for name, tensor in [*child.named_parameters(recurse=False), *child.named_buffers()]:
            with torch.no_grad():
                if name in ("weight", "running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
                elif name in ("bias", "running_mean"):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
