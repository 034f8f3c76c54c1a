"""Files of weights as people have them, under the names that docs/weights.md gives them."""

from __future__ import annotations

import functools
import pickle
import re
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from test_folded_norms import folded
from test_resnet_parity import DLi14Layer, caffe2_name
from torch import Tensor, nn

from lambda_det import get_config
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import build_detector


def torchvision_network() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None)


def torchvision_state() -> dict[str, Tensor]:
    return torchvision_network().state_dict()


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def unknown_object() -> object:
    """Of a class that whoever reads the file does not have."""
    module = types.ModuleType("a_training_framework")
    module.Settings = type("Settings", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module  # pickle looks the class up
    settings = module.Settings()
    settings.values = {"lr": 0.1}
    return settings


def save(path: Path, content: object) -> None:
    torch.save(content, path)
    sys.modules.pop("a_training_framework", None)


def save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({n: t.clone() for n, t in state.items()}, path, metadata={"format": "pt"})


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip("timm", reason="timm is not installed").create_model(name)


def timm_train(path: Path) -> None:
    state = torchvision_state()
    averaged = {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}
    save(path, {"state_dict": averaged, "state_dict_ema": state, "args": Namespace(), "epoch": 299})


def lightning(path: Path) -> None:
    state = with_prefix("model.", torchvision_state())
    extras = {"hyper_parameters": unknown_object(), "pytorch-lightning_version": "2.5.0"}
    save(path, {"state_dict": state, "optimizer_states": [{}], "epoch": 99, **extras})


def mmengine(path: Path) -> None:
    state = with_prefix("backbone.", torchvision_state())
    state["bbox_head.fc_cls.weight"] = torch.ones(81, 8)
    save(path, {"meta": {"epoch": 12}, "state_dict": state, "message_hub": unknown_object()})


def dino(path: Path) -> None:
    teacher = with_prefix("module.backbone.", torchvision_state())
    student = {n: t + 1 if t.is_floating_point() else t for n, t in teacher.items()}
    save(path, {"student": student, "teacher": teacher, "args": unknown_object(), "epoch": 800})


def moco(path: Path, *, both: bool) -> None:
    state = {n: t for n, t in torchvision_state().items() if not n.startswith("fc.")}
    query = with_prefix("module.encoder_q.", state)
    key = {n.replace("_q.", "_k."): t + 1 if t.is_floating_point() else t for n, t in query.items()}
    save(path, {"epoch": 800, "arch": "resnet50", "state_dict": query | (key if both else {})})


def folded_file(path: Path) -> None:
    torch.manual_seed(0)
    network = build_lambda_resnet(50, "resnet", stem="v1").double().eval()
    theirs = {}
    for name, tensor in folded(network).items():
        name = name.replace("shortcut", "downsample.0").replace("stem.", "")
        theirs[re.sub(r"res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)] = tensor.float()
    assert {"conv1.bias", "layer1.0.downsample.0.bias", "layer4.2.conv3.bias"} <= theirs.keys()
    torch.save(theirs, path)


def dli14(path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    for index in range(1, 5):
        for block in getattr(network, f"layer{index}"):
            block.conv2 = DLi14Layer(block.conv2.in_channels, block.conv2.stride[0])
    torch.save({"state_dict": with_prefix("module.", network.state_dict())}, path)


def pretraining(path: Path) -> None:
    torch.manual_seed(0)
    state = build_lambda_resnet(50, "lambda", num_classes=10).state_dict()
    images = {"image_format": "RGB", "pixel_mean": [123.675, 116.28, 103.53]}
    images["pixel_std"] = [58.395, 57.12, 57.375]
    path.parent.mkdir(parents=True)
    torch.save({"model": state, "metadata": images | {"classes": list("abcdefghij")}}, path)


def detector(path: Path) -> None:
    torch.manual_seed(0)
    cfg = get_config("mask_rcnn_lambda_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    path.parent.mkdir(parents=True)
    torch.save({"model": build_detector(cfg).state_dict(), "iteration": 89}, path)


FILES: dict[str, Callable[[Path], None]] = {
    "resnet50-0676ba61.pth": lambda path: torch.save(torchvision_state(), path),
    "resnet50.pth": lambda path: torch.save(torchvision_state(), path),
    "model.safetensors": lambda path: save_safetensors(path, torchvision_state()),
    "lambda_resnet26t.safetensors": lambda path: save_safetensors(
        path, timm_network("lambda_resnet26t").state_dict()
    ),
    "whole_model.pth": lambda path: torch.save(torchvision_network(), path),
    "lambda_resnet50.pth": dli14,
    "checkpoint-299.pth.tar": timm_train,
    "epoch=99-step=125100.ckpt": lightning,
    "epoch_12.pth": mmengine,
    "checkpoint-500/model.safetensors": lambda path: (
        path.parent.mkdir(),
        save_safetensors(path, with_prefix("timm_model.", torchvision_state())),
    ),
    "dino_resnet50.pth": dino,
    "moco.pth.tar": functools.partial(moco, both=True),
    "moco_v2_800ep_pretrain.pth.tar": functools.partial(moco, both=False),
    "folded.pth": folded_file,
    "output/pretrain/model_final_ema.pth": pretraining,
    "output/mine/model_final.pth": detector,
}

ADDRESSES: dict[str, Callable[[Path], None]] = {
    "torchvision://resnet50": lambda path: torch.save(torchvision_state(), path),
    "torchvision://resnet50.IMAGENET1K_V2": lambda path: torch.save(torchvision_state(), path),
    "timm://resnet50.a1_in1k": lambda path: torch.save(torchvision_state(), path),
    "timm://resnetrs50.tf_in1k": lambda path: torch.save(
        timm_network("resnetrs50").state_dict(), path
    ),
}


def msra(path: Path) -> None:
    torch.manual_seed(0)
    state = build_lambda_resnet(50, "resnet", stem="v1", stride_in_1x1=True).state_dict()
    arrays = {caffe2_name(n): t.numpy() for n, t in state.items() if "num_batches" not in n}
    path.write_bytes(pickle.dumps(arrays, protocol=2))


def zoo_detector(path: Path, depth: int) -> None:
    torch.manual_seed(0)
    cfg = get_config(f"mask_rcnn_R_{depth}_FPN_3x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "cpu", "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    state = {name: tensor.numpy() for name, tensor in build_model(cfg).state_dict().items()}
    content = {"model": state, "__author__": "Detectron2 Model Zoo"}
    path.write_bytes(pickle.dumps(content, protocol=4))
