"""detectron2's synchronised norm in the heads, as the LSJ recipes have it: batches without an
object or a region, in one process and in two of a CPU, and bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lambda_det.configs import load_config
from lambda_det.engine.launch import launch
from lambda_det.engine.parallel import parallel
from lambda_det.engine.trainer import Trainer

# "naiveSyncBN_N" is this norm in another mode; detectron2 v0.5 has the mode without the name.
SMALL = (
    "MODEL.ROI_BOX_HEAD.NORM naiveSyncBN MODEL.ROI_MASK_HEAD.NORM naiveSyncBN "
    "MODEL.BACKBONE.NAME build_resnet_fpn_backbone MODEL.BACKBONE.FREEZE_AT 0 "
    "MODEL.RESNETS.NORM BN MODEL.RESNETS.WIDTH_PER_GROUP 8 MODEL.RESNETS.RES2_OUT_CHANNELS 32 "
    "MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.OUT_FEATURES ['res2','res3','res4','res5'] "
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 16 "
    "MODEL.ROI_BOX_HEAD.NUM_CONV 1 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_MASK_HEAD.NUM_CONV 1"
).split()
NO_REGION = ("MODEL.RPN.POST_NMS_TOPK_TRAIN", "0")
MEAN = 30.0  # of features whose deviation is 1: bfloat16 steps by 4 at their squares


def detector(*words: str) -> nn.Module:
    cfg = load_config("mask_rcnn_lambda_R_50_FPN_shapes_cpu", [*SMALL, *words])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    norms = [m for m in model.roi_heads.modules() if isinstance(m, NaiveSyncBatchNorm)]
    assert len(norms) == 2
    for norm in norms:
        norm._stats_mode = "N"
    return model


def batch(objects: int) -> list[dict]:
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]] * objects).view(-1, 4))
    instances.gt_classes = torch.zeros(objects, dtype=torch.long)
    instances.gt_masks = BitMasks(torch.ones(objects, 64, 64, dtype=torch.bool))
    pixels = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    return [{"image": pixels, "instances": instances, "height": 64, "width": 64}] * 2


def step(model: nn.Module, objects: int, precision: torch.dtype | None) -> dict[str, float]:
    """One update; the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with EventStorage() as storage:
        Trainer(model, [batch(objects)], optimizer, precision=precision).run_step()
        return {name: value for name, (value, _) in storage.latest().items() if "loss" in name}


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("words", [(), NO_REGION], ids=["no object", "no region"])
def test_one_process_trains_without_objects(words, precision) -> None:
    model = detector(*words)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = step(model, 0, precision)
    assert losses["loss_mask"] == 0 and (losses["loss_cls"] == 0) == bool(words)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    after = model.state_dict()
    empty = ("roi_heads.mask_head", "roi_heads.box_head") if words else ("roi_heads.mask_head",)
    for name in (name for name in before if name.startswith(empty) and "num_batches" not in name):
        assert torch.equal(after[name], before[name]), name


def features(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return MEAN + torch.randn((3, 5)[rank], 4, 7, 7, generator=generator)


def in_two_processes(folder: str) -> None:
    rank, found = comm.get_rank(), {}
    for precision in (None, torch.bfloat16):
        for objects in (1, 0):  # of process 0; process 1 has none
            model = parallel(detector())
            losses = step(model, objects if rank == 0 else 0, precision)
            assert all(value == value for value in losses.values())
            found[precision, objects] = model.module.state_dict()
    norm = parallel(nn.Sequential(NaiveSyncBatchNorm(4, stats_mode="N")))
    x = features(rank).bfloat16().requires_grad_()
    output = norm(x)
    output.float().pow(3).sum().backward()
    found["norm"] = output.detach(), x.grad, norm.module.state_dict()
    torch.save(found, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_processes_of_which_one_has_no_objects(tmp_path: Path) -> None:
    launch(in_two_processes, 2, device="cpu", args=(str(tmp_path),))
    one, two = (torch.load(tmp_path / f"{rank}.pth", weights_only=False) for rank in (0, 1))
    for key in ((p, objects) for p in (None, torch.bfloat16) for objects in (1, 0)):
        for name, value in one[key].items():
            assert value.isfinite().all(), (key, name)
            if name.startswith("roi_heads") or not name.endswith(("_mean", "_var")):
                assert torch.equal(value, two[key][name]), (key, name)
        moved = one[key]["roi_heads.mask_head.mask_fcn1.norm.running_mean"].any()
        assert bool(moved) == bool(key[1])

    # In bfloat16: the norm of one process over both batches, in float64.
    expected = nn.BatchNorm2d(4).double()
    whole = torch.cat([features(0), features(1)]).bfloat16().double().requires_grad_()
    output = expected(whole)
    output.pow(3).sum().backward()
    found = [torch.cat(pair) for pair in zip(one["norm"][:2], two["norm"][:2], strict=True)]
    assert [value.dtype for value in found] == [torch.bfloat16] * 2
    torch.testing.assert_close(found[0].double(), output.detach(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found[1].double(), whole.grad, rtol=5e-2, atol=5e-2)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            one["norm"][2][f"0.{name}"].double(), expected.state_dict()[name], rtol=1e-2, atol=0
        )  # the variance of one process has no N - 1
