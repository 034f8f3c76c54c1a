"""A conversion for a config keeps what the file was trained as, and trusts no metadata."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint.conversion import convert, convert_file
from lambda_det.checkpoint.image_format import IMAGENET, ImageFormat
from lambda_det.checkpoint.own_files import write_weights
from lambda_det.checkpoint.translation import read_and_translate
from lambda_det.errors import InputError

RESNET = {"depth": 50, "variant": "resnet", "stem": "v1"}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    state = build_lambda_resnet(**RESNET).state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def config(**keys):
    cfg = get_cfg()
    for key, value in ({"DEPTH": 50, "VARIANT": "resnet", "STEM": "v1"} | keys).items():
        cfg.MODEL.LAMBDA_RESNET[key] = value
    return cfg


def test_another_network_stays_another_network(tensors, tmp_path: Path, caplog):
    file, out = str(tmp_path / "in.pth"), str(tmp_path / "out.pth")
    trained = {"stride_in_1x1": True, "activation": "silu", "lambda_pool": 2}
    means = (10.0, 20.0, 30.0)
    images = ImageFormat("RGB", means, IMAGENET.pixel_std)
    write_weights(file, tensors, architecture=RESNET | trained, images=images, origin="test")
    cfg = config()
    with caplog.at_level(logging.WARNING):
        convert_file(file, out, cfg=cfg)
    keys = ("STRIDE_IN_1X1", "ACTIVATION", "LAMBDA_POOL", "PIXEL_MEAN")
    assert all(key in caplog.text for key in keys)

    source = read_and_translate(out)
    assert source.not_in_shapes() == trained
    # order and standard deviation were mended in the first convolution, the mean was not
    given = ImageFormat.from_config(cfg)
    assert source.images == ImageFormat("BGR", means[::-1], given.pixel_std)


def test_frozen_norms_are_not_left_at_zero(tensors, tmp_path: Path) -> None:
    """Nothing would ever move them."""
    file = str(tmp_path / "in.pth")
    write_weights(file, tensors, architecture=RESNET, images=None, origin="test")
    keys = {"VARIANT": "lambda", "PARTIAL_INIT": True, "PARTIAL_INIT_AS_IDENTITY": True}
    for norm, is_kept in (("BN", True), ("FrozenBN", False)):
        found = convert(read_and_translate(file), cfg=config(**keys, NORM=norm)).coverage
        assert ("res5.1.conv3.norm.weight" in found.kept_zero) == is_kept
        assert ("res5.1.conv3.norm.weight" in found.loaded) != is_kept


GOOD_IMAGES = asdict(IMAGENET)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"architecture": RESNET | {"colour": 3}}, "'colour'"),
        ({"architecture": "x"}, "architecture='x'"),
        ({"architecture": RESNET | {"depth": "x"}}, "depth"),
        ({"architecture": RESNET | {"depth": [50]}}, "cannot build"),
        ({"architecture": {"depth": 50}}, "variant"),
        ({"architecture": RESNET, "images": {"channel_order": "RGB"}}, "pixel_mean"),
        ({"architecture": RESNET, "images": "RGB"}, "images='RGB'"),
        ({"architecture": RESNET, "images": GOOD_IMAGES | {"pixel_std": [1.0]}}, "three"),
        ({"architecture": RESNET, "images": GOOD_IMAGES | {"pixel_std": [1, 0, 1]}}, "positive"),
    ],
)
def test_damaged_metadata(metadata: dict, words: str, tensors, tmp_path: Path) -> None:
    file = tmp_path / "in.pth"
    torch.save({"model": tensors, "lambda_det": metadata}, file)
    with pytest.raises(InputError) as error:
        convert(read_and_translate(str(file)))
    message = str(error.value)
    assert message.startswith(f"{file}: ") and words in message and "\n" not in message


def test_a_header_that_is_no_json(tensors, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch", reason="safetensors is missing").save_file
    save_file(tensors, tmp_path / "in.safetensors", metadata={"lambda_det": "{"})
    with pytest.raises(InputError, match=r"in\.safetensors: its metadata 'lambda_det' is not JSON"):
        read_and_translate(str(tmp_path / "in.safetensors"))
