"""Activation checkpointing: the same numbers from less memory, and norms that note a batch once."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from backbone_helpers import image, randomise
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from lambda_det.analysis.memory import activation_bytes
from lambda_det.backbone import attach_image_sizes, build_lambda_resnet
from lambda_det.backbone.recomputation import computed_twice
from lambda_det.errors import InputError

ALL = ("res2", "res3", "res4", "res5")
PAIR = {"lambda_blocks": {"res2": [2], "res3": [], "res4": [], "res5": []}}
SMALL = PAIR | {"out_features": ("res2", "res3"), "scope": 5, "query_depth": 4}


def step(backbone: nn.Module, x: Tensor, sizes=None) -> list[Tensor]:
    """Loss, gradients and buffers behind one forward and backward pass."""
    torch.manual_seed(3)
    if sizes is not None:
        x = attach_image_sizes(x.clone(), sizes)
    loss = sum(output.double().square().mean() for output in backbone(x).values())
    loss.backward()
    gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
    return [loss.detach(), *gradients, *backbone.buffers()]


def pair(**arguments) -> tuple[nn.Module, nn.Module]:
    """Without and with checkpointing, of the same weights."""
    plain = build_lambda_resnet(26, "lambda", **(SMALL | arguments))
    randomise(plain)
    again = copy.deepcopy(plain)
    for stage in again.stages:
        stage.checkpointing = True
    return plain.train(), again.train()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"drop_path_rate": 0.5},
        {"mask_padding": True},
        {"freeze_at": 2},
        {"norm": "GN"},
        {"se_stages": ()},
        {"norm": lambda channels: nn.BatchNorm2d(channels, momentum=None)},
    ],
    ids=["SE", "drop path", "mask padding", "frozen", "GN", "no SE", "cumulative BN"],
)
def test_the_same_numbers(arguments: dict) -> None:
    plain, again = (network.double() for network in pair(**arguments))
    x = image(2, 3, 37, 50).double()
    sizes = [(37, 41), (30, 50)] if "mask_padding" in arguments else None
    for _step in range(2):
        wanted, found = step(plain, x, sizes), step(again, x, sizes)
        assert len(wanted) == len(found) > 10
        for own, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_a_norm_counts_a_batch_once_and_keeps_its_buffers() -> None:
    _, again = pair()
    before = {name: id(buffer) for name, buffer in again.named_buffers()}
    step(again, image(2, 3, 33, 40))
    counters = {n: b for n, b in again.named_buffers() if n.endswith("num_batches_tracked")}
    assert len(counters) > 10 and all(counter == 1 for counter in counters.values())
    assert {name: id(buffer) for name, buffer in again.named_buffers()} == before


def test_a_graph_that_is_kept_and_a_gradient_of_a_gradient() -> None:
    results = []
    for network in pair(norm=lambda channels: nn.BatchNorm2d(channels, momentum=None)):
        x = image(2, 3, 21, 26).double().requires_grad_()
        loss = sum(output.square().mean() for output in network.double()(x).values())
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        slope.square().sum().backward(retain_graph=True)
        loss.backward()
        results.append([x.grad, *(p.grad for p in network.parameters()), *network.buffers()])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_autocast_is_repeated() -> None:
    plain, again = pair(se_stages=())
    x = image(2, 3, 33, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, found = plain(x)["res3"], again(x)["res3"]
    assert wanted.dtype == torch.bfloat16 and torch.equal(found, wanted)
    for output in (wanted, found):
        output.float().square().sum().backward()
    for own, other in zip(again.parameters(), plain.parameters(), strict=True):
        assert own.grad is other.grad is None or torch.equal(own.grad, other.grad)


def test_off_without_a_backward_pass(monkeypatch) -> None:
    _, again = pair()
    monkeypatch.setattr("lambda_det.backbone.masking.computed_twice", None)
    x = image(1, 3, 32, 32)
    again.eval()(x)
    with torch.no_grad():
        again.train()(x)
    with pytest.raises(TypeError):
        again(x)


def test_names_of_the_state_dict() -> None:
    with torch.device("meta"):
        names = [
            list(build_lambda_resnet(26, "lambda", **options).state_dict())
            for options in ({}, {"activation_checkpointing": ALL})
        ]
    assert names[0] == names[1]


def test_memory_that_is_kept() -> None:
    with torch.device("meta"):
        kept = {
            stages: activation_bytes(
                build_lambda_resnet(50, "lambda", activation_checkpointing=stages).train(),
                torch.empty(1, 3, 128, 128),
                prefix="backbone",
            )
            for stages in ((), ("res3",), ALL)
        }
    res3 = kept[("res3",)]
    assert {part for part in kept[()] if res3[part] < 0.9 * kept[()][part]} == {"res3"}
    # Of res3 the inputs of its four blocks: of 32 x 32 x 256 (res2's output) and 16 x 16 x 512.
    assert res3["res3"] <= 4 * (32 * 32 * 256 + 3 * 16 * 16 * 512)
    totals = [kept[stages].total() - kept[stages]["stem"] for stages in (ALL, ())]
    assert totals[0] < 0.3 * totals[1]


@pytest.mark.parametrize("stages", ["res2", ["res6"], 3], ids=str)
def test_wrong_stages(stages) -> None:
    with pytest.raises(InputError, match="activation_checkpointing"):
        build_lambda_resnet(26, "lambda", activation_checkpointing=stages)


def test_a_norm_over_several_processes(monkeypatch) -> None:
    """As one of two processes that see the same: it talks as often as the other, notes once."""
    calls = []

    def all_gather(outputs: list[Tensor], tensor: Tensor, **_arguments: object) -> None:
        calls.append("all_gather")
        for output in outputs:
            output.copy_(tensor)

    def all_reduce(tensor: Tensor, **_arguments: object) -> None:
        calls.append("all_reduce")
        tensor.mul_(2)

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda *_group: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), NaiveSyncBatchNorm(4), nn.Conv2d(4, 2, 1)).double()
    again = copy.deepcopy(plain)
    x = image(2, 3, 7, 8).double()
    talk = []
    for run, network in ((plain, plain), (lambda x: computed_twice(again, x), again)):
        calls.clear()
        run(x).square().sum().backward()
        talk.append(list(calls))
        assert network[1].running_mean.norm() > 0
    forward, backward = talk[0].count("all_gather"), talk[0].count("all_reduce")
    assert talk[1].count("all_gather") == 2 * forward > 0
    assert talk[1].count("all_reduce") == backward > 0
    for own, other in zip(again.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, other)
    for own, other in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
