"""Files made from backbones and detectors, run again at other sizes beside the network."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import FPN, build_model
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.errors import InputError
from lambda_det.export import checking, detector_form, export_config, exporting, formats
from lambda_det.export.checking import largest_difference
from lambda_det.export.forms import BackboneForm, detect


def need_packages(format: str) -> None:
    if format == "onnx":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)


@pytest.fixture(scope="module")
def small_fpn() -> nn.Module:
    """With SE and λ, strided too."""
    bottom_up = build_lambda_resnet(
        26, "lambda", out_features=("res2", "res3"), lambda_blocks={"res3": [1]}, scope=5
    )
    for module in bottom_up.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    return FPN(bottom_up, ("res2", "res3"), 16).eval()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "onnx"])  # ONNX is made by torch.export
def test_backbone_with_fpn(small_fpn, tmp_path, format: str) -> None:
    need_packages(format)
    path = str(tmp_path / "model")
    form = BackboneForm(small_fpn)
    inputs = [torch.randn(1, 3, 64, 96), torch.randn(1, 3, 96, 160), torch.randn(1, 3, 32, 64)]
    inputs = inputs[: 2 if format == "onnx" else 3]  # torch.export: sides of at least 64
    formats.write(form, inputs[0], path, format=format, what="backbone")
    exported = formats.read(path, format, form.names)
    found = largest_difference(small_fpn, exported, inputs)
    assert max(d.largest for d in found) < 1e-5
    assert found[1].shapes == {"p2": (1, 16, 24, 40), "p3": (1, 16, 12, 20)}


@pytest.mark.slow
def test_config(small_cfg, tmp_path) -> None:
    path = tmp_path / "model"
    result = export_config(small_cfg, str(path), format="torchscript", size=(64, 96))
    assert result.written and path.is_file() and result.largest < 1e-5
    assert [(d.height, d.width) for d in result.differences] == [(64, 96), (96, 160)]
    assert result.differences[1].shapes["p4"] == (1, 32, 6, 10)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.fixture(scope="module")
def detector(small_cfg) -> nn.Module:
    model = build_model(small_cfg).eval()
    load_weights(model, small_cfg.MODEL.WEIGHTS, complete=True, cfg=small_cfg)
    return model.requires_grad_(False)


def smooth_images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(1, 3, 6, 7, generator=generator) for _ in sizes]
    return [
        255 * nn.functional.interpolate(image, size, mode="bilinear")[0]
        for image, size in zip(coarse, sizes, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_detector_also_with_padding(detector, tmp_path, format: str) -> None:
    """At sizes that are padded to a multiple of 32, which masks hide, and on nothing to find."""
    need_packages(format)
    images = smooth_images((64, 96), (93, 75), (40, 120))
    form = detector_form(detector, images[0])
    assert form.names == ("pred_boxes", "pred_classes", "pred_masks", "scores")
    path = str(tmp_path / "model")
    formats.write(form, images[0], path, format=format, what="detector")
    exported = formats.read(path, format, form.names)
    found = largest_difference(lambda image: detect(detector, image), exported, images)
    assert all(d.shapes["scores"][0] > 5 for d in found)
    assert max(d.largest for d in found) < 1e-4
    other = detect(detector, images[1].flip(1))
    assert largest_difference(lambda _: other, exported, images[1:2])[0].largest > 1e-3


@pytest.mark.slow
def test_without_detections_a_lower_threshold_is_compared_first(
    small_cfg, tmp_path, monkeypatch
) -> None:
    cfg = small_cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.1
    forms = []

    def write(form: nn.Module, example: Tensor, path: str, **_options: object) -> None:
        forms.append(form)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{len(forms)}")

    def read(path: str, format: str, names: tuple[str, ...]):
        return lambda x: dict(zip(names, forms[-1](x), strict=True))

    monkeypatch.setattr(formats, "write", write)
    monkeypatch.setattr(formats, "read", read)
    path = tmp_path / "model.ts"
    result = export_config(cfg, str(path), format="torchscript", what="detector", size=(64, 64))
    numbers = [d.shapes["scores"][0] for d in result.differences]
    assert numbers[0] > 5 and numbers[1] > 5 and numbers[2:] == [0, 0] and result.written
    assert result.threshold_lowered
    assert path.read_text() == "2"  # what has the threshold of the config


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(small_cfg, tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.ts"
    path.write_text("before")
    real = formats.read
    monkeypatch.setattr(
        exporting.formats,
        "read",
        lambda *args: lambda x: {n: t + 2e-4 for n, t in real(*args)(x).items()},
    )
    result = export_config(small_cfg, str(path), format="torchscript", size=(64, 64))
    assert not result.written and 1e-4 < result.largest < 3e-4
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_global_scope_stays_inside_of_its_largest_size(tmp_path) -> None:
    backbone = build_lambda_resnet(
        26, "resnet", out_features=("res2",), lambda_blocks={"res2": [1]}, scope="global",
        max_size=(96, 128), query_depth=4,
    )  # fmt: skip
    form = BackboneForm(backbone)
    path = str(tmp_path / "model.pt2")
    inputs = [torch.randn(1, 3, 64, 96), torch.randn(1, 3, 96, 128), torch.randn(1, 3, 128, 128)]
    formats.write(form, inputs[0], path, format="torch_export", what="backbone", largest=(96, 128))
    exported = formats.read(path, "torch_export", form.names)
    assert max(d.largest for d in largest_difference(backbone, exported, inputs[:2])) < 1e-5
    with pytest.raises(InputError, match="the exported file cannot be run at 128 x 128"):
        largest_difference(lambda _: {}, exported, inputs[2:])


def test_second_size(small_cfg) -> None:
    sizes = exporting._two_sizes
    assert sizes(small_cfg, None, None) == [(160, 160), (192, 224)]
    assert sizes(small_cfg, (64, 96), (64, 128)) == [(64, 96), (64, 64)]
    for size in ((32, 64), (64, 65), (0, 0)):
        with pytest.raises(InputError, match="multiples of 32"):
            sizes(small_cfg, size, None)
    with pytest.raises(InputError, match="MAX_SIZE"):
        sizes(small_cfg, (64, 96), (64, 64))
    with pytest.raises(InputError, match="second size"):
        sizes(small_cfg, (64, 64), (64, 64))


def test_numbers_above_one_are_compared_by_their_share() -> None:
    def difference(wanted: list[float], found: list[float]) -> float:
        inputs = [torch.zeros(1, 1)]
        tensors = [{"a": torch.tensor(numbers)} for numbers in (wanted, found)]
        return largest_difference(lambda _: tensors[0], lambda _: tensors[1], inputs)[0].largest

    assert difference([0.5, 200.0], [0.5, 201.0]) == pytest.approx(0.005)
    assert difference([0.5], [0.25]) == 0.25
    assert difference([math.nan], [math.nan]) == 0
    assert difference([math.nan], [1.0]) == difference([1.0], [1.0, 2.0]) == math.inf
    assert difference([math.inf, 2.0], [math.inf, 2.0]) == 0
    for wanted, found in ((math.inf, -math.inf), (math.nan, math.inf), (math.inf, 1.0)):
        assert difference([wanted], [found]) == difference([found], [wanted]) == math.inf


def test_detections_are_compared_in_any_order() -> None:
    def detections(order: list[int], shift: float = 0.0) -> dict[str, Tensor]:
        boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 9, 9], [5, 5, 9, 9]]) + shift
        fields = {
            "pred_boxes": boxes,
            "scores": torch.tensor([0.5, 0.5, 0.5]),
            "pred_classes": torch.tensor([0, 1, 0]),
        }
        return {name: tensor[order] for name, tensor in fields.items()}

    def difference(found: dict[str, Tensor]) -> float:
        wanted = detections([0, 1, 2])
        inputs = [torch.zeros(1, 1)]
        return checking.largest_difference(lambda _: wanted, lambda _: found, inputs)[0].largest

    assert difference(detections([2, 0, 1])) == 0
    assert difference(detections([2, 0, 1], shift=0.5)) > 0.05
    assert difference(detections([0, 1])) == math.inf
    assert difference(detections([0, 1, 1])) == 1  # a class


def test_what_is_refused(small_cfg, tmp_path) -> None:
    arguments = {"format": "torch_export", "what": "detector", "size": (64, 64)}
    with pytest.raises(InputError, match="--format torchscript or onnx"):
        export_config(small_cfg, str(tmp_path / "m"), **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_other_meta_architectures(detector) -> None:
    with pytest.raises(InputError, match="'Linear' cannot be exported as a whole"):
        detector_form(nn.Linear(1, 1), torch.zeros(3, 8, 8))


@pytest.mark.parametrize("name", ["PanopticFPN", "RetinaNet"])
def test_the_config_of_another_meta_architecture(small_cfg, tmp_path, name: str) -> None:
    cfg = small_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.WEIGHTS = name, ""
    if name == "RetinaNet":
        cfg.MODEL.BACKBONE.NAME = "build_retinanet_lambda_resnet_fpn_backbone"
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [96], [160]]
    with pytest.raises(InputError, match=f"'{name}' cannot be exported as a whole"):
        export_config(cfg, str(tmp_path / "m"), format="torchscript", what="detector")


@pytest.mark.slow
def test_what_cannot_be_traced_is_one_line(small_cfg, tmp_path, monkeypatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("\nattribute lookup\nis not defined")

    monkeypatch.setattr(exporting, "BackboneForm", type("Form", (BackboneForm,), {"forward": fail}))
    with pytest.raises(InputError, match=r"cannot export this model \(RuntimeError: attribute"):
        export_config(small_cfg, str(tmp_path / "m"), format="torchscript")


@pytest.mark.slow
def test_the_larger_size_is_recorded(small_cfg, tmp_path, monkeypatch) -> None:
    recorded = []
    original = formats.write
    monkeypatch.setattr(
        formats,
        "write",
        lambda form, x, *a, **kw: recorded.append(x) or original(form, x, *a, **kw),
    )
    export_config(small_cfg, str(tmp_path / "m"), format="torchscript", size=(64, 64))
    assert recorded[0].shape[2:] == (96, 128)


def test_a_missing_package_is_named(small_cfg, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", {"onnx": "found"}.get)
    with pytest.raises(InputError, match="--format onnx needs onnxruntime, onnxscript: pip"):
        export_config(small_cfg, str(tmp_path / "m"), format="onnx")
