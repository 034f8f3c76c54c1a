"""Fine-tuning from detectron2's COCO detectors: norms whose statistics were merged into weight and
bias get those of training images (MEASURE_NORMS), or are frozen."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from parity_helpers import difference
from tiny_detector import TINY
from torch import Tensor, nn
from zoo_helpers import OfPixels, calibrate, write_zoo_file

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint.folded_norms import EPS, MEASURE_NORMS_KEY
from lambda_det.checkpoint.image_format import MSRA
from lambda_det.configs import load_config
from lambda_det.data import generate_shapes
from lambda_det.engine import Parts, RunOptions, parts_from_cfg, run
from lambda_det.engine.launch import launch
from lambda_det.engine.norm_measurement import TrainingImages
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError, UnreadableImageError

BODY = "backbone.bottom_up."
STAGES = ("res2", "res3", "res4", "res5")
LINE = "the statistics of "


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, str]:
    """A folder of images, and a small ResNet as detectron2's zoo has it: with statistics that were
    measured, and then merged into weight and bias."""
    folder = tmp_path_factory.mktemp("measured")
    # One of the six has no objects.
    generate_shapes(folder / "shapes", num_train=6, num_val=2, seed=0)
    torch.manual_seed(0)
    network = build_lambda_resnet(26, "resnet", stem="v1", stride_in_1x1=True)
    calibrate(OfPixels(network), size=(96, 128))
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("batches_tracked")}
    for norm in [n.removesuffix(".running_var") for n in state if n.endswith("running_var")]:
        weight, bias, mean, variance = (
            state[f"{norm}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (variance + EPS).sqrt()
        state[f"{norm}.weight"], state[f"{norm}.bias"] = scale, bias - mean * scale
        state[f"{norm}.running_mean"] = torch.zeros_like(mean)
        state[f"{norm}.running_var"] = torch.ones_like(mean) - EPS
    named = {f"{BODY}{name}": tensor for name, tensor in state.items()}
    return folder, write_zoo_file(folder / "model_final_a3ec72.pkl", named)


def config(files: tuple[Path, str], variant: str, *changes: object) -> CfgNode:
    """The shipped config, small."""
    folder, file = files
    words = [
        *TINY, "MODEL.LAMBDA_RESNET.DEPTH", 26, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", file,
        "DATASETS.COCO_FOLDER", folder / "shapes", "OUTPUT_DIR", folder / "output",
        "INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 224, "DATALOADER.NUM_WORKERS", 0,
    ]  # fmt: skip
    name = f"mask_rcnn_{variant}_R_50_FPN_finetune"
    return load_config(name, [*map(str, words), *map(str, changes)])


def loaded(cfg: CfgNode) -> tuple[Parts, RunOptions]:
    parts, options = parts_from_cfg(cfg)
    parts.load_weights(parts.model, options.weights)
    return parts, options


def inputs(parts: Parts) -> list[Tensor]:
    """The images of the training set as a test gives them to the backbone."""
    mapper = parts.load_weights.keywords["measure"].mapper
    mean = torch.tensor(MSRA.pixel_mean)[:, None, None]
    return [(mapper(image)["image"] - mean)[None] for image in parts.train_loader.images]


def batch_of(images: list[Tensor]) -> Tensor:
    """What they all have, of one size."""
    height, width = (min(image.shape[side] for image in images) for side in (2, 3))
    return torch.cat([image[..., :height, :width] for image in images])


def features(backbone: nn.Module, x: Tensor, *, training: bool) -> dict[str, Tensor]:
    with torch.no_grad():
        found = backbone.train(training)(x)
    for feature in found.values():
        assert difference(feature[0], feature[1]) > 0.05, "the network does not see its input"
    return found


def cosines(backbone: nn.Module, x: Tensor) -> list[float]:
    """Of each stage's features in training and in evaluation; the statistics do not change."""
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trained, tested = (features(backbone, x, training=on) for on in (True, False))
    backbone.load_state_dict(state)
    pairs = ((trained[stage].flatten(), tested[stage].flatten()) for stage in STAGES)
    return [torch.cosine_similarity(*pair, dim=0).item() for pair in pairs]


def messages(caplog, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level]


@pytest.mark.slow
def test_lambda_networks_start_with_statistics(files, caplog) -> None:
    with caplog.at_level(logging.INFO):
        parts, _ = loaded(config(files, "lambda"))
    assert not [line for line in messages(caplog, logging.WARNING) if "statistics" in line]
    (line,) = [line for line in messages(caplog, logging.INFO) if LINE in line]
    assert f"measured on 5 images of DATASETS.TRAIN ({MEASURE_NORMS_KEY})" in line
    x, measured = batch_of(inputs(parts)), parts.model.backbone.bottom_up
    assert measured.training

    caplog.clear()
    with caplog.at_level(logging.WARNING):
        parts, _ = loaded(config(files, "lambda", MEASURE_NORMS_KEY, 0))
    plain = parts.model.backbone.bottom_up
    (warning,) = [line for line in messages(caplog, logging.WARNING) if "statistics" in line]
    assert f"set {MEASURE_NORMS_KEY} 64" in warning and "FrozenBN" not in warning
    assert warning.count("MODEL.WEIGHTS") == 1 and "\n" not in warning

    expected = features(plain, x, training=False)
    found = features(measured, x, training=False)
    for stage in STAGES:
        assert difference(found[stage], expected[stage]) < 1e-4
    assert min(cosines(plain, x)) < 0.9
    assert min(cosines(measured, x)) > 0.99


def test_a_norm_that_starts_at_0_gets_its_statistics(files) -> None:
    parts, _ = loaded(config(files, "lambda"))
    backbone, seen = parts.model.backbone.bottom_up.eval(), []
    norm = backbone.res5[1].conv3.norm
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].flatten(1)))
    with torch.no_grad():
        for image in inputs(parts):
            backbone(image)
    values = torch.cat(seen, dim=1).double()
    assert torch.all(norm.weight == 0)
    assert difference(norm.running_mean, values.mean(1)) < 1e-3
    assert difference(norm.running_var, values.var(1, correction=0)) < 1e-3


def test_se_networks_are_frozen_and_only_se_is_new(files, caplog) -> None:
    with caplog.at_level(logging.INFO):
        parts, _ = loaded(config(files, "se"))
    assert not [line for line in caplog.messages if "statistics" in line]
    backbone = parts.model.backbone.bottom_up
    norms = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 29 and all(torch.any(norm.weight != 0) for norm in norms)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    gates = {name for name, _ in backbone.named_parameters() if ".se." in name}
    assert len(gates) == 4 * 8 and gates < trained
    assert {n.split(".")[0] for n, _ in backbone.named_parameters() if n not in trained} == {"stem"}
    x = 50 * torch.randn(2, 3, 96, 128)
    trained, tested = (features(backbone, x, training=on) for on in (True, False))
    assert all(torch.equal(trained[stage], tested[stage]) for stage in STAGES)


def given(*broken: int, number: int, skip: bool, seen: list[int]) -> TrainingImages:
    def mapper(image: dict) -> dict:
        seen.append(image["id"])
        if image["id"] in broken:
            raise UnreadableImageError(f"image {image['id']} cannot be read")
        return {"image": torch.full((3, 4, 5), float(image["id"]))}

    return TrainingImages([{"id": i} for i in range(10)], number, mapper, MSRA, skip=skip)


def test_images_are_taken_at_equal_distances(caplog) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    seen: list[int] = []
    found = given(number=4, skip=False, seen=seen)(network, ["0"])
    assert seen == [0, 2, 5, 7]
    mean, variance = found["0"]
    expected = torch.tensor(seen).double().mean() - torch.tensor(MSRA.pixel_mean).double()
    assert torch.allclose(mean, expected, atol=1e-4)
    assert torch.allclose(variance, torch.tensor(seen).double().var(correction=0), rtol=1e-3)
    seen.clear()
    given(number=64, skip=False, seen=seen)(network, ["0"])
    assert seen == [*range(10)]
    with pytest.raises(InputError, match=r"^image 5 cannot be read$"):
        given(5, number=4, skip=False, seen=[])(network, ["0"])
    with caplog.at_level(logging.INFO):
        given(5, number=4, skip=True, seen=[])(network, ["0"])
    assert f"{MEASURE_NORMS_KEY}: image 5 cannot be read; it is left out" in caplog.text
    assert "measured on 3 images" in caplog.text
    with pytest.raises(InputError, match=rf"^{MEASURE_NORMS_KEY}=1: no image of DATASETS\.TRAIN"):
        given(0, number=1, skip=True, seen=[])(network, ["0"])


def test_a_wrong_number_is_named(files) -> None:
    cfg = config(files, "lambda", MEASURE_NORMS_KEY, -1)
    with pytest.raises(InputError, match=rf"^{MEASURE_NORMS_KEY}=-1: expected a whole number"):
        check_values(cfg)


def _in_a_process(files: tuple[Path, str], folder: str) -> None:
    cfg = config(files, "lambda")
    cfg.SOLVER.IMS_PER_BATCH = 2
    parts, _ = loaded(cfg)
    torch.save(parts.model.state_dict(), f"{folder}/{comm.get_rank()}.pth")


@pytest.mark.slow
def test_two_processes_have_the_same_norms(files, tmp_path: Path) -> None:
    launch(_in_a_process, 2, device="cpu", args=(files, str(tmp_path)))
    one, two = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    norm, new = f"{BODY}res5.1.conv3.norm", f"{BODY}res5.1.lambda_layer.query.weight"
    assert not torch.equal(one[new], two[new])  # what each of them would measure differs
    assert torch.any(one[f"{norm}.running_mean"] != 0)
    names = [name for name in one if re.search(r"\.(conv\d|shortcut)\.norm\.", name)]
    assert f"{norm}.running_mean" in names
    assert all(torch.equal(one[name], two[name]) for name in names)


@pytest.mark.slow
def test_a_resumed_run_does_not_measure(files, tmp_path: Path, caplog) -> None:
    def train(iterations: int) -> list[str]:
        changes = ("SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()")
        parts, options = parts_from_cfg(config(files, "lambda", *changes))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run(parts, options, resume=True)
        return [line for line in caplog.messages if LINE in line]

    assert len(train(1)) == 1
    assert not train(2)
