"""In an iteration the host waits for a GPU once: when it reads the losses."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lambda_det.backbone import build_lambda_resnet
from lambda_det.engine import Parts, RunOptions, run

WAITING = {
    getattr(Tensor, name)
    for name in (
        "item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__",
        "__index__", "__contains__", "equal", "masked_select", "argwhere", "unique",
    )
} | {
    getattr(torch, name)
    for name in ("nonzero", "equal", "masked_select", "argwhere", "unique", "allclose")
}  # fmt: skip
"""Functions for which the host waits if their argument is on a GPU."""


class Waits(TorchFunctionMode):
    """Counts, by iteration, what would wait if every tensor were on a GPU that was not made from
    Python's numbers: in the tests there is no GPU, and everything is on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.found = -1, Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensors = [each for each in args if isinstance(each, Tensor)]
        on_host = bool(tensors) and all(hasattr(tensor, "on_host") for tensor in tensors)
        masks = args[1:2] if function is Tensor.__getitem__ else ()
        if any(isinstance(m, Tensor) and m.dtype is torch.bool for m in masks):
            self.found[self.now, "a mask as index"] += 1
        if function in WAITING and not on_host:
            self.found[self.now, function.__name__] += 1
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and (function is torch.tensor or on_host):
            result.on_host = True
        return result


class Marks(HookBase):
    """Tells in which iteration we are: from one ``before_step`` to the next."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def before_step(self) -> None:
        self.waits.now = self.trainer.iter


class Network(nn.Module):
    """A small network of the family, with all its parts and the mean of its features as loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = {"res2": [2], "res3": [], "res4": [], "res5": []}
        self.backbone = build_lambda_resnet(
            26, "lambda", lambda_blocks=blocks, out_features=("res2",), scope=5, query_depth=4,
            drop_path_rate=0.1,
        )  # fmt: skip

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)["res2"]
        return {"loss_a": features.square().mean(), "loss_b": features.abs().mean()}


def waits_of_a_run(folder, **options) -> dict[int, list[str]]:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    parts = Parts(
        model, optimizer, [torch.randn(2, 3, 32, 32)] * 5,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2),
    )  # fmt: skip
    waits = Waits()
    options = RunOptions(output_dir=str(folder), max_iter=5, ema_decay=0.9, **options)
    with waits:
        run(parts, options, hooks=[Marks(waits)])
    # The first iteration begins, and the last one reports and saves.
    return {n: [what for i, what in waits.found.elements() if i == n] for n in range(1, 4)}


@pytest.mark.parametrize("max_skipped", [0, 3])
def test_an_iteration_waits_once(tmp_path, max_skipped: int) -> None:
    found = waits_of_a_run(tmp_path, max_skipped=max_skipped)
    assert found == {1: ["tolist"], 2: ["tolist"], 3: ["tolist"]}


def test_the_scaler_of_float16_waits_once_more(tmp_path, monkeypatch) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler)
    found = waits_of_a_run(tmp_path, precision="float16")
    assert all(sorted(waits) == ["item", "tolist"] for waits in found.values()), found
