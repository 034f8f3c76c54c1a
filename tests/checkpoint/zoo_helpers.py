"""Networks of detectron2's own, in files like those of its model zoo."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from detectron2.modeling import build_model
from parity_helpers import calibrate
from stock_mask_rcnn import stock_config
from torch import Tensor, nn

from lambda_det.checkpoint.zoo import AUTHOR

MEAN = (103.530, 116.280, 123.675)

FEWER = {"RPN.POST_NMS_TOPK_TEST": 50}


def pixels(size: tuple[int, int]) -> Tensor:
    """A BGR image of 0 to 255, smooth and with texture, whose channels differ."""
    generator = torch.Generator().manual_seed(size[0])
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")[0]
    image = 170 * smooth + 60 * torch.rand(3, *size, generator=generator)
    return image * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1)


class OfPixels(nn.Module):
    """A backbone with the images that ``calibrate`` draws, as large as pixels are."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.backbone(50 * x)


def stock_model(depth: int, **changes: object) -> tuple[nn.Module, dict[str, Tensor]]:
    """detectron2's own Mask R-CNN with frozen norms whose statistics were measured, and classifiers
    that tell regions apart; and its state without counters."""
    torch.manual_seed(0)
    trained = {"RESNETS.NORM": "BN", "BACKBONE.FREEZE_AT": 0}  # a frozen norm measures nothing
    network = build_model(stock_config(depth, **trained, **changes))
    calibrate(OfPixels(network.backbone), size=(96, 128))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "cls_score.weight" in name or "objectness_logits.weight" in name:
                parameter.mul_(20)
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("batches_tracked")}
    frozen = build_model(stock_config(depth, **{**FEWER, **changes})).eval()
    frozen.load_state_dict(state, strict=False)
    return frozen, state


def write_zoo_file(path: Path, state: dict[str, Tensor], *, author: str = AUTHOR) -> str:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    content = {"model": arrays} | ({"__author__": author} if author else {})
    path.write_bytes(pickle.dumps(content, protocol=2))
    return str(path)
