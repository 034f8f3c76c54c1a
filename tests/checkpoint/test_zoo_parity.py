"""detectron2's own Mask R-CNN, in a file of its model zoo, detects the same as our ``resnet``."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.structures import Instances
from parity_helpers import difference
from torch import Tensor, nn
from zoo_helpers import FEWER, MEAN, pixels, stock_model, write_zoo_file

from lambda_det.backbone import build_detector
from lambda_det.checkpoint import check_frozen_weights, load_weights
from lambda_det.configs import load_config
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow  # builds whole detectors

SIZES = ((97, 131), (151, 75))


@pytest.fixture(scope="module")
def zoo(request, tmp_path_factory) -> Iterator[tuple[int, nn.Module, str]]:
    """The depth, detectron2's network and its file."""
    network, state = stock_model(request.param)
    path = tmp_path_factory.mktemp("zoo") / "model_final_a3ec72.pkl"
    yield request.param, network, write_zoo_file(path, state)
    path.unlink()  # 170 or 250 MB


def ours(depth: int, file: str, *changes: object) -> nn.Module:
    """The model of the shipped config, with the weights of the file."""
    words = [word for key, value in FEWER.items() for word in (f"MODEL.{key}", str(value))]
    cfg = load_config(f"mask_rcnn_R_{depth}_FPN_finetune", [*words, *map(str, changes)])
    cfg.MODEL.DEVICE = "cpu"
    model = build_detector(cfg).eval()
    coverage = load_weights(model, file, cfg=cfg, complete=True)
    assert not coverage.random() and not coverage.unexpected
    return model


def detect(model: nn.Module, image: Tensor) -> Instances:
    height, width = image.shape[-2:]
    with torch.no_grad():
        (found,) = model.inference(
            [{"image": image, "height": height, "width": width}], do_postprocess=False
        )
    assert len(found) >= 10 and len(set(found.pred_classes.tolist())) > 1
    return found


def features(model: nn.Module, image: Tensor) -> Tensor:
    """All levels of the FPN, in one row."""
    with torch.no_grad():
        levels = model.backbone(model.preprocess_image([{"image": image}]).tensor)
    return torch.cat([level.flatten() for level in levels.values()])


def far(a: Instances, b: Instances) -> float:
    """Largest difference of scores, masks and boxes (in 100 pixels); 1 if the objects differ."""
    if len(a) != len(b) or not torch.equal(a.pred_classes, b.pred_classes):
        return 1.0
    boxes = (a.pred_boxes.tensor - b.pred_boxes.tensor).abs().max() / 100
    scores = (a.scores - b.scores).abs().max()
    return max(boxes, scores, (a.pred_masks - b.pred_masks).abs().max()).item()


@pytest.mark.parametrize("zoo", [50, 101], indirect=True)
def test_the_same_detections(zoo, caplog) -> None:
    depth, theirs, file = zoo
    with caplog.at_level(logging.INFO):
        model = ours(depth, file)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "exchanged" not in caplog.text and "unknown" not in caplog.text
    for size in SIZES:
        expected = detect(theirs, pixels(size))
        assert far(detect(model, pixels(size)), expected) <= 1e-5
        assert far(detect(theirs, pixels(size).flip(0)), expected) > 1e-3  # sees its channels


@pytest.mark.parametrize("zoo", [50], indirect=True)
def test_another_colour_order_is_mended(zoo, caplog) -> None:
    """With RGB images in the config; a file of unknown origin gives something else. Features are
    compared, in float64, because the sums of the first convolution have another order."""
    depth, theirs, file = zoo
    theirs = copy.deepcopy(theirs).double()
    rgb = ("INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", list(reversed(MEAN)))
    with caplog.at_level(logging.INFO):
        model = ours(depth, file, *rgb)
    assert "was trained on BGR images, but INPUT.FORMAT is 'RGB'" in caplog.text
    image = pixels(SIZES[0]).double()
    expected = features(theirs, image)
    assert difference(features(model.double(), image.flip(0)), expected) <= 1e-9
    anonymous = file.replace(".pkl", "_own.pkl")
    state = {n: t for n, t in theirs.state_dict().items() if not n.endswith("batches_tracked")}
    write_zoo_file(Path(anonymous), state, author="")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        model = ours(depth, anonymous, *rgb)
    Path(anonymous).unlink()
    assert difference(features(model.double(), image.flip(0)), expected) > 0.05
    (line,) = [r.getMessage() for r in caplog.records if "unknown" in r.getMessage()]
    for words in ("INPUT.FORMAT", "MODEL.PIXEL_STD", "STRIDE_IN_1X1", "RGB images", "BGR images"):
        assert words in line


@pytest.mark.parametrize("zoo", [50], indirect=True)
def test_another_stride_is_warned_of(zoo, caplog) -> None:
    depth, theirs, file = zoo
    with caplog.at_level(logging.WARNING):
        model = ours(depth, file, "MODEL.LAMBDA_RESNET.STRIDE_IN_1X1", False)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "MODEL.LAMBDA_RESNET.STRIDE_IN_1X1 is False; set" in line and "to True" in line
    assert far(detect(model, pixels(SIZES[0])), detect(theirs, pixels(SIZES[0]))) > 1e-3


@pytest.mark.parametrize("zoo", [50], indirect=True)
@pytest.mark.parametrize("variant", ["se", "lambda"])
def test_a_part_of_it_with_other_classes(zoo, variant: str, caplog) -> None:
    """All that the network has too is the file's, heads included but for what classes decide."""
    _, theirs, file = zoo
    words = ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.DEVICE", "cpu"]
    cfg = load_config(f"mask_rcnn_{variant}_R_50_FPN_finetune", words)
    model = build_detector(cfg)
    with caplog.at_level(logging.INFO):
        coverage = load_weights(model, file, cfg=cfg)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert {re.sub(r".*\d\.(\w+)\..*", r"\1", name) for name in coverage.missing} == (
        {"se", "lambda_layer", "lambda_norm"} if variant == "lambda" else {"se"}
    )
    anew = {
        f"roi_heads.{name}.{leaf}"
        for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        for leaf in ("weight", "bias")
    }
    assert {name for name, *_ in coverage.wrong_shape} == anew
    (line,) = [r.getMessage() for r in caplog.records if "start anew" in r.getMessage()]
    assert "has 80 classes, and the model has 3 classes: these layers start anew: " in line
    for name in ("cls_score", "bbox_pred", "mask_head.predictor"):
        assert name in line
    state, expected = model.state_dict(), theirs.state_dict()
    assert len(coverage.loaded) > 250
    for name in coverage.loaded:
        full = name if name in expected else f"backbone.bottom_up.{name}"
        assert torch.equal(state[full], expected[full]), full
    check_frozen_weights(model, file)
    model.backbone.bottom_up.freeze(3)
    with pytest.raises(InputError, match=r"FREEZE_AT freezes .* set .*FREEZE_AT to at most 1$"):
        check_frozen_weights(model, file)
