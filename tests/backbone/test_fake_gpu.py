"""A training step of the backbone on a GPU neither waits for it nor computes on the host.

Under FakeTensorMode on "cuda" nothing is computed, and what needs a value on the host raises an
error. Without a GPU it runs forwards only; backwards run on "cpu", with the GPU's back end. So the
step can be captured as a CUDA graph.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lambda_det.backbone import attach_image_sizes, build_lambda_resnet
from lambda_det.engine.nonfinite import any_not_finite, read_step

SIZES = [(96, 64), (33, 128)]
OPTIONS = {
    "resnet": {"variant": "resnet", "freeze_at": 2},
    "se": {"variant": "se", "stem": "v1", "norm": "GN", "drop_path_rate": 0.2},
    "lambda": {"variant": "lambda", "activation_checkpointing": ("res4",)},
    "lambda_full": {
        "variant": "lambda_full", "stem": "tiered", "scope": "global", "max_size": (96, 128),
        "intra_depth": 2, "position_bias": True, "lambda_pool": 2, "drop_path_rate": 0.2,
    },
    "classifier": {
        "variant": "lambda", "key_normalizer": "l2", "query_normalizer": "softmax",
        "norm": "FrozenBN", "num_classes": 3, "dropout": 0.1, "out_features": ("res2", "linear"),
    },
}  # fmt: skip


class OnDevice(TorchDispatchMode):
    """Refuses what makes tensors elsewhere, or copies between devices and waits for that."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        places = {t.device.type for t in tree_leaves((args, kwargs, result)) if is_tensor(t)}
        if len(places) > 1 and self.device in places:
            assert kwargs.get("non_blocking"), f"{function} waits for {places}"
        return result


class OnlyOn(OnDevice):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        for tensor in filter(is_tensor, tree_leaves(result)):
            assert tensor.device.type == self.device, f"{function} makes a tensor on the host"
        return result


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def network(name: str, device: str, dtype: torch.dtype = torch.float32, **more) -> nn.Module:
    options = OPTIONS[name] | {"mask_padding": True} | more
    torch.set_default_dtype(dtype)  # fake parameters cannot be converted
    try:
        with torch.device(device):
            return build_lambda_resnet(26, **options).train()
    finally:
        torch.set_default_dtype(torch.float32)


def padded(device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    with OnDevice(device):
        x = torch.empty(2, 3, 96, 128, device=device, dtype=dtype)
        return attach_image_sizes(x, SIZES)


def loss_of(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: feature.float().square().mean() for name, feature in features.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_forward_pass_stays_on_the_gpu(name: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        model, x = network(name, "cuda", dtype), padded("cuda", dtype)
        for images in (x.clone(), x):  # the clone has no sizes, so that it counts as not padded
            with OnlyOn("cuda"):
                losses = loss_of(model(images))
            assert all(loss.device.type == "cuda" for loss in losses.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_needs_no_value_before_its_losses_are_read(name: str) -> None:
    with FakeTensorMode():
        model, x = network(name, "cpu", backend="conv"), padded("cpu")
        for images in (x.clone(), x):
            losses = loss_of(model(images))
            sum(losses.values()).backward()
            bad = any_not_finite(model.parameters())
            with pytest.raises(DataDependentOutputException):
                read_step(losses, bad)


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum() > 0 or x, lambda x: x[x > 0], torch.Tensor.cpu, torch.Tensor.item]
)
def test_the_check_finds_what_waits(wait) -> None:
    errors = (DataDependentOutputException, DynamicOutputShapeException, AssertionError)
    with FakeTensorMode(), OnlyOn("cuda"), pytest.raises(errors):
        wait(torch.empty(1, device="cuda"))


def test_a_blocking_copy_is_found() -> None:
    with FakeTensorMode(), OnDevice("cuda"), pytest.raises(AssertionError, match="waits"):
        torch.tensor([1, 2]).to("cuda")
