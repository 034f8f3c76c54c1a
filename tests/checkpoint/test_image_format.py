"""Weights trained on other images are made to fit exactly where that is possible."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights, metadata_of_training, own_files
from lambda_det.checkpoint.architecture import NOT_IN_SHAPES
from lambda_det.checkpoint.image_format import IMAGENET, MSRA, ImageFormat, fit_to_config
from lambda_det.checkpoint.own_files import write_weights
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError

FORMATS = {"imagenet": IMAGENET, "msra": MSRA, "bgr": IMAGENET.in_order("BGR")}


def network_input(pixels_rgb: Tensor, images: ImageFormat) -> Tensor:
    """What detectron2 feeds for an RGB image of 0 ... 255."""
    pixels = pixels_rgb if images.channel_order == "RGB" else pixels_rgb.flip(1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.pixel_mean, images.pixel_std))
    return (pixels - mean) / std


def config(images: ImageFormat):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LAMBDA_RESNET.VARIANT", "resnet", "MODEL.LAMBDA_RESNET.DEPTH", 50])
    cfg.merge_from_list(["MODEL.LAMBDA_RESNET.STEM", "v1", "INPUT.FORMAT", images.channel_order])
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(images.pixel_mean), list(images.pixel_std)
    return cfg


@pytest.mark.parametrize("trained", FORMATS)
@pytest.mark.parametrize("given", FORMATS)
def test_same_image_same_features(trained: str, given: str, tmp_path: Path, caplog) -> None:
    """Through a file with metadata and a whole load."""
    trained_on, fed = FORMATS[trained], FORMATS[given]
    torch.manual_seed(0)
    arguments = {"depth": 50, "variant": "resnet", "stem": "v1", "out_features": ("res2",)}
    reference = build_lambda_resnet(**arguments).eval()
    file = str(tmp_path / "w.pth")
    architecture = {"depth": 50, "variant": "resnet", "stem": "v1"}
    tensors = {n: t for n, t in reference.state_dict().items() if t.is_floating_point()}
    write_weights(file, tensors, architecture=architecture, images=trained_on, origin="test")

    ours = build_lambda_resnet(**arguments).eval()
    with caplog.at_level(logging.INFO):
        load_weights(ours, file, cfg=config(fed))
    pixels = torch.rand(1, 3, 33, 47) * 255
    with torch.no_grad():
        expected = reference(network_input(pixels, trained_on))["res2"]
        found = ours(network_input(pixels, fed))["res2"]
    assert ((found - expected).abs().max() / expected.abs().max()) < 1e-5
    exchanged = trained_on.channel_order != fed.channel_order
    assert ("exchanged" in caplog.text) == exchanged
    assert ("PIXEL_STD" in caplog.text) == (("msra" in (trained, given)) and trained != given)
    assert "PIXEL_MEAN" not in caplog.text


@pytest.mark.parametrize(("shift", "warned"), [(2.0, True), (0.1, False)])
def test_another_mean_is_warned_of(shift: float, warned: bool, caplog) -> None:
    """Means are compared in grey levels, and the weight is left as it is."""
    tensors = {"stem.conv1.weight": torch.ones(2, 3, 1, 1)}
    given = ImageFormat("RGB", tuple(m + shift for m in IMAGENET.pixel_mean), IMAGENET.pixel_std)
    with caplog.at_level(logging.WARNING):
        fit_to_config(tensors, IMAGENET, given, "file")
    for words in ("MODEL.PIXEL_MEAN", "123.675", "125.675"):
        assert (words in caplog.text) == warned
    assert torch.equal(tensors["stem.conv1.weight"], torch.ones(2, 3, 1, 1))


def test_unknown_images_are_said_to_be_unknown(caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert fit_to_config({}, None, IMAGENET, "w.pth") is None
    assert "w.pth" in caplog.text and "not compared" in caplog.text


def test_what_no_shape_shows_is_warned_of(tmp_path: Path, caplog) -> None:
    arguments = {"depth": 50, "variant": "resnet", "stem": "v1"}
    network = build_lambda_resnet(**arguments, out_features=("res2",))
    tensors = {n: t for n, t in network.state_dict().items() if t.is_floating_point()}
    file = str(tmp_path / "w.pth")
    hidden = {"stride_in_1x1": True, "activation": "relu", "lambda_pool": 3}
    write_weights(file, tensors, architecture=arguments | hidden, images=None, origin="test")
    cfg = config(IMAGENET)
    for stride_in_1x1 in (True, False):
        cfg.MODEL.LAMBDA_RESNET.STRIDE_IN_1X1 = stride_in_1x1
        with caplog.at_level(logging.WARNING):
            load_weights(network, file, cfg=cfg)
        assert bool(caplog.records) != stride_in_1x1
    assert "STRIDE_IN_1X1" in caplog.text and "stride_in_1x1=True" in caplog.text


def test_files_of_a_pretraining_name_their_images() -> None:
    state = build_lambda_resnet(50, "resnet", out_features=("res2",)).state_dict()
    metadata = {"image_format": "RGB", "pixel_mean": [1.0, 2, 3], "pixel_std": [4.0, 5, 6]}
    content = {"model": state, "metadata": metadata | {"classes": ["a"]}}
    found = translate("file", content).images
    assert found == ImageFormat("RGB", (1, 2, 3), (4, 5, 6))
    assert translate("file", {"model": state, "metadata": "words"}).images is None


@pytest.mark.parametrize("bad", [{"pixel_mean": [float("nan")] * 3}, {"pixel_std": [math.inf] * 3}])
def test_numbers_that_are_none_are_not_believed(bad: dict, caplog) -> None:
    state = {f"res{stage}.0.conv1.weight": torch.ones(1) for stage in (2, 3)}
    metadata = {"image_format": "RGB", "pixel_mean": [1.0, 2, 3], "pixel_std": [4.0, 5, 6]} | bad
    assert translate("file", {"model": state, "metadata": metadata}).images is None
    assert "file: its metadata has {'image_format': 'RGB'" in caplog.text
    assert len(caplog.records) == 1
    images = {"channel_order": metadata.pop("image_format"), **metadata}
    with pytest.raises(InputError, match=r"^file: its metadata has images="):
        translate("file", {"model": state, "lambda_det": {"hidden": {}, "images": images}})


@pytest.mark.parametrize(
    "hidden",
    [{"stride_in_1x1": "no"}, {"stride_in_1x1": 1}, {"activation": 3}, {"lambda_pool": 3.0}],
)
def test_hidden_arguments_of_another_type_are_refused(hidden: dict) -> None:
    state = {f"res{stage}.0.conv1.weight": torch.ones(1) for stage in (2, 3)}
    (name, value), *_ = hidden.items()
    with pytest.raises(InputError, match=f"^file: its metadata has {name}={value!r}; expected one"):
        translate("file", {"model": state, "lambda_det": {"hidden": hidden}})
    assert {*own_files._HIDDEN} == {*NOT_IN_SHAPES}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scaled_exactly(dtype: torch.dtype) -> None:
    weight = torch.randn(4, 3, 7, 7).to(dtype)
    tensors = {"stem.conv1.weight": weight}
    fit_to_config(tensors, IMAGENET, MSRA, "file")
    std = torch.tensor(IMAGENET.pixel_std, dtype=torch.float64)
    exact = (weight.double() / std.view(3, 1, 1)).flip(1)
    assert ((tensors["stem.conv1.weight"] / exact - 1).abs()[exact != 0] < 1e-6).all()


def test_other_orders_of_channels_are_compared_too(caplog) -> None:
    """detectron2 also reads YUV-BT.601 and L."""
    yuv, weight = (
        ImageFormat("YUV-BT.601", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0)),
        torch.ones(2, 3, 1, 1),
    )
    tensors = {"stem.conv1.weight": weight}
    with caplog.at_level(logging.INFO):
        assert fit_to_config(tensors, yuv, yuv, "file") == yuv
    assert not caplog.records and torch.equal(tensors["stem.conv1.weight"], weight)
    fit_to_config(tensors, IMAGENET, yuv, "file")
    assert "INPUT.FORMAT is 'YUV-BT.601'" in caplog.text


def test_another_number_of_channels_is_left_to_the_shapes() -> None:
    tensors = {"stem.conv1.weight": torch.ones(2, 3, 1, 1)}
    grey = ImageFormat("RGB", (1.0,) * 6, (1.0,) * 6)
    assert fit_to_config(tensors, IMAGENET, grey, "file") == IMAGENET


def test_metadata_of_a_training() -> None:
    """What is not of three channels is left out, and wrong entries are refused."""
    network = build_lambda_resnet(50, "resnet", out_features=("res2",))
    hidden = {"stride_in_1x1": True, "activation": "silu", "lambda_pool": 2}
    written = metadata_of_training(network, {**hidden, "freeze_at": 2}, IMAGENET)
    state = network.state_dict()
    found = translate("file", {"model": state} | written)
    assert found.images == IMAGENET and found.hidden == found.not_in_shapes() == hidden
    grey = ImageFormat("L", (1.0,), (2.0,))
    content = {"model": state} | metadata_of_training(network, hidden, grey)
    assert translate("file", content).images is None
    content["lambda_det"]["hidden"] = {"strides": 1}
    with pytest.raises(InputError, match=r"^file: its metadata contains the argument 'strides'"):
        translate("file", content)
