"""Loading of backbones and of an image for the plots, from a config."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from lambda_det.configs import load_config
from lambda_det.errors import InputError
from studies.views.loading import load_networks, read_for

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
SMALL = (
    "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 1000 MODEL.FPN.OUT_CHANNELS 16 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 32 MODEL.ROI_MASK_HEAD.CONV_DIM 32"
).split()


@pytest.fixture(scope="module")
def make_cfg(project: Path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")

    def make(*words: str):
        """A config, and a file with random weights of its detector of three classes."""
        words = (*SMALL, *words)
        cfg = load_config(str(project / CONFIG), [*words, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
        weights = folder / f"{len(list(folder.iterdir()))}.pth"
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        return load_config(str(project / CONFIG), [*words, "MODEL.WEIGHTS", str(weights)])

    return make


def test_a_network_and_another_variant_beside_it(make_cfg, tmp_path: Path):
    cfg = make_cfg()
    other = make_cfg("MODEL.LAMBDA_RESNET.VARIANT", "resnet").MODEL.WEIGHTS
    networks = load_networks(cfg, [("resnet", other), ("lambda", cfg.MODEL.WEIGHTS)])
    assert list(networks.backbones) == ["lambda-50", "resnet-50", "lambda-50'"]
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80  # the caller's config is as it was
    assert not any(module.training for module in networks.backbones["resnet-50"].modules())

    # 100 x 200 becomes 64 x 128; blue, read as RGB.
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :, 0] = 200
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    image, shown, query = read_for(networks, str(tmp_path / "a.png"), (50, 199))
    assert shown.shape == (64, 128, 3) and shown[0, 0].tolist() == [0, 0, 200]
    assert query == pytest.approx((31.82, 127), abs=0.01)
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    expected = [(value - m) / s for value, m, s in zip((0, 0, 200), mean, std, strict=True)]
    torch.testing.assert_close(image[0, :, 3, 5], torch.tensor(expected))
    assert networks.backbones["lambda-50"](image)["res4"].shape[-2:] == (4, 8)
    assert read_for(networks, str(tmp_path / "a.png"), None)[2] is None
    with pytest.raises(InputError, match="--query 100 3: the image has 100 x 200 pixels"):
        read_for(networks, str(tmp_path / "a.png"), (100, 3))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"--image .*b\.png cannot be read"):
        read_for(networks, str(tmp_path / "b.png"), None)


def test_wrong_variants_and_no_weights(make_cfg):
    cfg = make_cfg()
    with pytest.raises(InputError, match="VARIANT"):
        load_networks(cfg, [("convnext", cfg.MODEL.WEIGHTS)])
    with pytest.raises(InputError, match=r"resnet.*|MODEL\.WEIGHTS"):
        load_networks(cfg, [("resnet", cfg.MODEL.WEIGHTS)])  # those of another network
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS is empty"):
        load_networks(cfg)
