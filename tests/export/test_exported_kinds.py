"""The layers of layers/attention.py in files of every format, run again at another size."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from every_kind import kinds_in, next_kind
from torch import Tensor, nn

from lambda_det.export import detector_form, formats
from lambda_det.export.checking import largest_difference
from lambda_det.export.forms import detect
from lambda_det.layers import LambdaLayer
from lambda_det.layers.attention import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
INPUTS = (torch.randn(1, 16, 24, 40), torch.randn(1, 16, 36, 18), torch.randn(1, 16, 4, 6))


class SideBySide(nn.Module):
    """The layers of all kinds but the lambda layer on one input, each some times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [layer for _ in KINDS if type(layer := next_kind(16)) is not LambdaLayer]
        self.times = times
        self.layers = nn.ModuleDict({type(layer).__name__: layer for layer in layers})
        self.between = nn.Conv2d(16, 16, 1)
        self.names = tuple(self.layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for layer in self.layers.values():
            output = layer(x)
            for _ in range(self.times - 1):
                output = layer(self.between(output))
            outputs.append(output)
        return tuple(outputs)


def assert_same(layers: SideBySide, path: str, format: str, inputs=INPUTS) -> None:
    def network(x: Tensor) -> dict[str, Tensor]:
        return dict(zip(layers.names, layers(x), strict=True))

    exported = formats.read(path, format, layers.names)
    found = largest_difference(network, exported, inputs)
    assert max(difference.largest for difference in found) < 1e-4


@pytest.mark.parametrize("format", ["torchscript", "onnx"])  # ONNX is made by torch.export
def test_formats_of_backbones(tmp_path, format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    layers = SideBySide(1 if format == "onnx" else 2).eval()  # twice takes torch.export long
    assert len(layers.names) == len(KINDS) - 1
    path = str(tmp_path / "model")
    formats.write(layers, INPUTS[0], path, format=format, what="backbone", multiple=2)
    assert_same(layers, path, format)
    if format == "torchscript":  # of any size and any number of images
        assert_same(layers, path, format, (torch.randn(2, 16, 23, 41), torch.randn(3, 16, 5, 1)))


def test_detector_with_masks(small_cfg, tmp_path) -> None:
    """A whole detector, whose layers get the mask of the padding, at sizes that are padded."""
    cfg = small_cfg.clone()
    node = cfg.MODEL.LAMBDA_RESNET
    node.LAYER.KIND, node.LAYER.SCOPE, node.MASK_PADDING = "local_attention", 5, True
    torch.manual_seed(0)
    model = build_model(cfg).eval().requires_grad_(False)
    model.load_state_dict(torch.load(cfg.MODEL.WEIGHTS)["model"], strict=False)
    assert kinds_in(model) == {"local_attention"}
    images = [255 * torch.rand(3, *size) for size in ((64, 96), (93, 75), (40, 120))]
    form, path = detector_form(model, images[0]), str(tmp_path / "model")
    formats.write(form, images[0], path, format="torchscript", what="detector")
    exported = formats.read(path, "torchscript", form.names)
    found = largest_difference(lambda image: detect(model, image), exported, images)
    assert all(d.shapes["scores"][0] > 5 for d in found)
    assert max(d.largest for d in found) < 1e-4
    model.backbone.bottom_up.mask_padding = False
    unmasked = largest_difference(lambda image: detect(model, image), exported, images[1:2])
    assert unmasked[0].largest > 1e-3


def test_format_of_detectors(tmp_path) -> None:
    """ONNX files of detectors are made by PyTorch's older exporter."""
    pytest.importorskip("onnxscript")
    layers, path = SideBySide(2).eval(), str(tmp_path / "model.onnx")
    torch.onnx.export(
        layers, INPUTS[:1], path, dynamo=False, opset_version=formats.OPSET["detector"],
        input_names=["image"], output_names=list(layers.names),
        dynamic_axes={"image": {2: "H", 3: "W"}},
    )  # fmt: skip
    assert_same(layers, path, "onnx")
