"""MASK_PADDING with detectron2's own meta-architectures, as they are."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle

import pytest
import torch
from backbone_helpers import STRIDES, feature_size, randomise
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet, share_image_sizes
from lambda_det.configs import load_config
from lambda_det.layers import LambdaLayer
from lambda_det.layers.squeeze_excitation import SqueezeExcitation

BASE = "configs/_base/mask_rcnn_fpn.yaml"
TINY = (
    "MODEL.DEVICE cpu MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.LAMBDA_RESNET.LAYER.SCOPE 5 "
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.RPN.PRE_NMS_TOPK_TEST 20 MODEL.RPN.POST_NMS_TOPK_TEST 5 "
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN 20 MODEL.RPN.POST_NMS_TOPK_TRAIN 5 MODEL.ROI_HEADS.NUM_CLASSES 3 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_MASK_HEAD.NUM_CONV 1 "
    "MODEL.RETINANET.NUM_CONVS 1 MODEL.RETINANET.NUM_CLASSES 3 "
    "MODEL.RETINANET.SCORE_THRESH_TEST 0.0 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "
    "MODEL.SEM_SEG_HEAD.IN_FEATURES ['p2','p3','p4','p5'] MODEL.SEM_SEG_HEAD.CONVS_DIM 32 "
    "TEST.DETECTIONS_PER_IMAGE 5 TEST.AUG.MIN_SIZES (40,56) TEST.AUG.MAX_SIZE 100 "
    "INPUT.MIN_SIZE_TEST 50 INPUT.MAX_SIZE_TEST 100"
).split()
RETINANET = (
    "MODEL.BACKBONE.NAME build_retinanet_lambda_resnet_fpn_backbone MODEL.FPN.IN_FEATURES "
    "['res3','res4','res5'] MODEL.LAMBDA_RESNET.OUT_FEATURES ['res3','res4','res5'] "
    "MODEL.ANCHOR_GENERATOR.SIZES [[32],[32],[32],[32],[32]] MODEL.ROI_HEADS.NUM_CLASSES 3"
).split()
SMALL_SIZE, LARGE_SIZE = (45, 61), (90, 130)


def config(project, name: str, *overrides: str) -> CfgNode:
    extra = RETINANET if name == "RetinaNet" else ["MODEL.MASK_ON", str(name != "ProposalNetwork")]
    words = [*TINY, "MODEL.META_ARCHITECTURE", name, *extra, *overrides]
    return load_config(str(project / BASE), words)


def build(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    randomise(model.backbone.bottom_up)
    return model


def inputs_of(height: int, width: int) -> dict:
    generator = torch.Generator().manual_seed(height)
    pixels = (torch.rand(3, height, width, generator=generator) * 255).to(torch.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[3.0, 4.0, 30.0, 40.0]]))
    instances.gt_classes = torch.tensor([1])
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, 5:30, 5:25] = True
    instances.gt_masks = BitMasks(masks)
    segments = torch.zeros(height, width, dtype=torch.long)
    return {
        "image": pixels,
        "instances": instances,
        "sem_seg": segments,
        "height": height,
        "width": width,
    }


class Recorder:
    """The features of a detector's backbone, and what its gates and lambda layers have given."""

    def __init__(self, model: nn.Module) -> None:
        self.features: dict[str, Tensor] = {}
        self.gates: list[Tensor] = []
        self.masks: list[Tensor | None] = []
        bottom_up = model.backbone.bottom_up
        bottom_up.register_forward_hook(lambda _m, _i, output: self.features.update(output))
        for module in bottom_up.modules():
            if isinstance(module, SqueezeExcitation):
                module.scale_activation.register_forward_hook(self._note_gate)
            if isinstance(module, SqueezeExcitation | LambdaLayer):
                module.register_forward_pre_hook(self._note_mask, with_kwargs=True)

    def _note_gate(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        self.gates.append(output)

    def _note_mask(self, module: nn.Module, inputs: tuple, named: dict) -> None:
        self.masks.append(
            inspect.signature(module.forward).bind(*inputs, **named).arguments.get("padding_mask")
        )

    def run(self, call) -> dict[str, Tensor]:
        """Features of the first image, cut to what is image."""
        self.gates.clear(), self.masks.clear()
        with torch.no_grad():
            call()
        cut = {name: feature_size(*SMALL_SIZE, STRIDES[name]) for name in self.features}
        return {name: self.features[name][0, :, :h, :w] for name, (h, w) in cut.items()}


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(
        ((first[name] - second[name]).abs().max() / first[name].abs().max()).item()
        for name in first
    )


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("GeneralizedRCNN", "lambda"),
        ("GeneralizedRCNN", "resnet"),
        ("GeneralizedRCNN", "se"),
        ("PanopticFPN", "se"),
        ("RetinaNet", "lambda"),
    ],
)
def test_batch_mates_do_not_matter(project, name: str, variant: str) -> None:
    model = build(config(project, name, "MODEL.LAMBDA_RESNET.VARIANT", variant))
    recorder = Recorder(model)
    small, large = inputs_of(*SMALL_SIZE), inputs_of(*LARGE_SIZE)
    alone = recorder.run(lambda: model([small]))
    gates = [gate[0] for gate in recorder.gates]
    together = recorder.run(lambda: model([small, large]))
    assert largest_difference(alone, together) < 1e-4
    for gate, other in zip(gates, recorder.gates, strict=True):
        torch.testing.assert_close(other[0], gate, rtol=1e-5, atol=1e-6)

    model.backbone.bottom_up.mask_padding = False
    alone = recorder.run(lambda: model([small]))
    gates = [gate[0] for gate in recorder.gates]
    together = recorder.run(lambda: model([small, large]))
    assert largest_difference(alone, together) > 1e-2
    if variant == "resnet":
        return
    assert max((a - b[0]).abs().max() for a, b in zip(gates, recorder.gates, strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "PanopticFPN", "RetinaNet"])
def test_training_masks_and_learns(project, name: str) -> None:
    model = build(config(project, name)).train()
    recorder = Recorder(model)
    with EventStorage():
        losses = model([inputs_of(*SMALL_SIZE), inputs_of(*LARGE_SIZE)])
    assert recorder.masks and all(mask is not None and mask[0].any() for mask in recorder.masks)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())


def test_nothing_is_masked_where_images_fill_the_batch(project) -> None:
    model = build(config(project, "GeneralizedRCNN"))
    recorder = Recorder(model)
    recorder.run(lambda: model([inputs_of(*SMALL_SIZE)]))
    assert any(mask is not None for mask in recorder.masks)
    recorder.run(lambda: model([inputs_of(64, 96), inputs_of(64, 96)]))
    assert recorder.masks and all(mask is None for mask in recorder.masks)
    # A tensor that comes straight to the backbone after a padded batch has no sizes.
    recorder.run(lambda: model([inputs_of(*SMALL_SIZE), inputs_of(*LARGE_SIZE)]))
    recorder.run(lambda: model.backbone(torch.rand(2, 3, 96, 160)))
    assert recorder.masks and all(mask is None for mask in recorder.masks)


def test_test_time_augmentation_masks(project) -> None:
    cfg = config(project, "GeneralizedRCNN")
    model = build(cfg)
    recorder = Recorder(model)
    recorder.run(lambda: GeneralizedRCNNWithTTA(cfg, model, batch_size=3)([inputs_of(*SMALL_SIZE)]))
    assert recorder.masks and all(mask is not None for mask in recorder.masks)


class Images:
    def __init__(self, tensor: Tensor, image_sizes: list) -> None:
        self.tensor, self.image_sizes = tensor, image_sizes


class Own(nn.Module):
    """A meta-architecture that no registry knows."""

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone

    def preprocess_image(self, inputs: Tensor) -> Images:
        return Images(inputs, [(3, 4)])


class OfAnotherKind(Own):
    """Its preprocessing gives no images."""

    def preprocess_image(self, inputs: object) -> object:
        return inputs


class Static(Own):
    @staticmethod
    def preprocess_image(inputs: object) -> object:
        return inputs


def sizes_told(model: nn.Module) -> bool:
    tensor = torch.zeros(1, 3, 8, 8)
    assert model.preprocess_image(tensor).tensor is tensor
    return hasattr(tensor, "lambda_det_image_sizes")


def small_backbone(mask_padding: bool) -> nn.Module:
    return build_lambda_resnet(26, "se", out_features=("res2",), mask_padding=mask_padding)


def test_only_a_model_with_a_masking_backbone_is_changed() -> None:
    classes = [cls for _, cls in META_ARCH_REGISTRY if hasattr(cls, "preprocess_image")]
    before = [vars(cls).get("preprocess_image") for cls in (*classes, Own)]
    assert sizes_told(Own(nn.Sequential(small_backbone(True))))
    assert not sizes_told(Own(nn.Sequential(small_backbone(False))))
    assert not sizes_told(Own())
    assert [vars(cls).get("preprocess_image") for cls in (*classes, Own)] == before


def test_model_that_was_finished_before_its_backbone() -> None:
    model = Own(nn.Sequential())
    model.backbone.add_module("bottom_up", small_backbone(True))
    assert not sizes_told(model)
    assert share_image_sizes(model) and sizes_told(model)


def test_changed_model_is_copied_and_pickled() -> None:
    model = Own(small_backbone(True))
    copied = copy.deepcopy(model)
    assert copied.preprocess_image.model is copied and sizes_told(copied)
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.preprocess_image.model is loaded and sizes_told(loaded)


def test_preprocessing_of_another_kind_is_left_alone() -> None:
    for cls in (OfAnotherKind, Static):
        assert cls(small_backbone(True)).preprocess_image([1, 2]) == [1, 2]
    assert not share_image_sizes(nn.Module()) and not share_image_sizes(Static())


def test_meta_architecture_that_tells_no_sizes_is_a_warning(project, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        build_model(config(project, "SemanticSegmentor"))
    assert "SemanticSegmentor" in caplog.text and "MASK_PADDING" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build_model(
            config(project, "SemanticSegmentor", "MODEL.LAMBDA_RESNET.MASK_PADDING", "False")
        )
        build_model(config(project, "GeneralizedRCNN"))
    assert "MASK_PADDING" not in caplog.text


FINE_TUNED = ("mask_rcnn_R_50_FPN_finetune", "mask_rcnn_R_101_FPN_finetune")


def test_shipped_detectors_mask(project) -> None:
    for path in sorted((project / "configs").glob("COCO-*/*.yaml")):
        masks = load_config(str(path)).MODEL.LAMBDA_RESNET.MASK_PADDING
        # detectron2's detectors, whose weights these two take, were trained without it.
        assert masks != (path.stem in FINE_TUNED), path.name
    names = {name for name, _ in META_ARCH_REGISTRY}
    assert {"GeneralizedRCNN", "PanopticFPN", "RetinaNet"} <= names
