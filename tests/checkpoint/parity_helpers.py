"""Networks and comparisons that can see a fault.

With statistics of BatchNorm that were never measured, a deep network's logits hardly depend on its
input, and a wrong stem passes. So affines are random, statistics come from a pass in training mode,
and every comparison first asserts that two inputs give two outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights

SIZE = (97, 131)
STAGES = ("res2", "res3", "res4", "res5")
Features = dict[str, Tensor]


def images(*, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    """Two images that differ in brightness, contrast and texture."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, *size, generator=generator)
    coarse = torch.randn(2, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return torch.stack([noise[0] + smooth[0], 0.3 * noise[1] - 2 * smooth[1]])


def calibrate(
    network: nn.Module, *, size: tuple[int, int] = SIZE, branch: float = 1.0
) -> nn.Module:
    """Random affines, and the statistics of the batch that is compared with; evaluation mode.

    ``branch`` scales the last norm of every block. Lambda networks need a smaller one: each layer
    is quadratic in its input, and a chain of random ones loses more than 1e-5 in float32 whoever
    computes it (16 of them: 2e-4 between timm's or torchvision's own float32 and float64).
    """
    generator = torch.Generator().manual_seed(1)
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms
    for name, norm in norms.items():
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches, here of one
        scale = branch if name.endswith(("bn3", "conv3_1x1.bn")) else 1.0
        nn.init.uniform_(norm.weight, 0.5 * scale, 1.5 * scale, generator=generator)
        nn.init.normal_(norm.bias, std=0.3, generator=generator)
    with torch.no_grad():
        network.train()(images(size=size))
    return network.eval()


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


def load_and_compare(
    file: Path,
    reference: Callable[[Tensor], Features],
    architecture: dict,
    *,
    size: tuple[int, int] = SIZE,
    tolerance: float = 1e-5,
) -> nn.Module:
    """Load the file into our network; every stage and the logits must be the reference's."""
    ours = build_lambda_resnet(
        **architecture, num_classes=1000, out_features=(*STAGES, "linear")
    ).eval()
    coverage = load_weights(ours, str(file))
    assert coverage.share() == 1 and not coverage.random() and not coverage.unexpected
    x = images(size=size)
    with torch.no_grad():
        expected, found = reference(x), ours(x)
    assert set(expected) == {*STAGES, "linear"}
    for name, feature in expected.items():
        assert difference(feature[0], feature[1]) >= 0.1, f"{name} does not see its input"
        assert feature.shape == found[name].shape
        assert difference(found[name], feature) <= tolerance, name
    return ours


def resnet_features(network: nn.Module, activation: str = "relu") -> Callable[[Tensor], Features]:
    """Of a ResNet with torchvision's module names (timm's ``act1`` in place of ``relu``)."""

    def features(x: Tensor) -> Features:
        x = network.maxpool(getattr(network, activation)(network.bn1(network.conv1(x))))
        found = {}
        for index, stage in enumerate(STAGES, start=1):
            x = found[stage] = getattr(network, f"layer{index}")(x)
        return {**found, "linear": network.fc(x.mean(dim=(2, 3)))}

    return features


def byobnet_features(network: nn.Module) -> Callable[[Tensor], Features]:
    """Of timm's ByobNet."""

    def features(x: Tensor) -> Features:
        x, found = network.stem(x), {}
        for stage, module in zip(STAGES, network.stages, strict=True):
            x = found[stage] = module(x)
        return {**found, "linear": network.forward_head(network.final_conv(x))}

    return features


def assert_position_bias_is_seen(network: nn.Module, *, size: tuple[int, int] = SIZE) -> None:
    """One small parameter of a loaded network must matter, or the comparison was blind to it."""
    x = images(size=size)
    with torch.no_grad():
        before = network(x)
        for name, parameter in network.named_parameters():
            if name.endswith("position_bias"):
                parameter.zero_()
        after = network(x)
    assert difference(after["linear"], before["linear"]) >= 1e-3
