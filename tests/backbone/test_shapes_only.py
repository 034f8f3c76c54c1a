"""Networks of names and shapes: the same ones, and nothing is drawn for them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.shapes_only import shapes_only


@pytest.mark.parametrize("variant", ["lambda", "se"])
def test_same_tensors_as_on_the_meta_device_and_on_the_cpu(variant: str) -> None:
    with shapes_only():
        network = build_lambda_resnet(50, variant, num_classes=7)
    with torch.device("meta"):
        on_meta = build_lambda_resnet(50, variant, num_classes=7)
    real = build_lambda_resnet(50, variant, num_classes=7)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    for other in (on_meta, real):
        expected = {name: (t.shape, t.dtype) for name, t in other.state_dict().items()}
        assert {n: (t.shape, t.dtype) for n, t in network.state_dict().items()} == expected
        assert [n for n, _ in network.named_parameters()] == [
            n for n, _ in other.named_parameters()
        ]


class Draws(TorchDispatchMode):
    """How often a random number would be drawn."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten.normal_, torch.ops.aten.uniform_)
        return function(*args, **(kwargs or {}))


def test_nothing_is_drawn() -> None:
    with Draws() as plain, torch.device("meta"):
        build_lambda_resnet(50, "lambda", num_classes=7)
    with Draws() as draws, shapes_only():
        build_lambda_resnet(50, "lambda", num_classes=7)
    assert draws.count == 0 < plain.count
