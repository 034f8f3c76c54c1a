"""The doctor on detectron2 and on this package: stand-ins for every way they fail."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from detectron2.engine import hooks
from doctor_helpers import check, refuse, stand_in
from torch import nn

from lambda_det import compat
from lambda_det.doctor import detector
from lambda_det.doctor.findings import OK, PROBLEM, WARNING

ROWS = {check.name: check.run for check in detector.CHECKS}


def test_this_detectron2_is_found() -> None:
    check(ROWS["detectron2"](), OK, "interfaces of", compat.detectron2_flavour())
    check(ROWS["lambda_det"](), OK, "3 backbones registered")


@pytest.mark.parametrize("flavour", ["0.5", "0.6", "main"])
def test_flavours_are_told_by_their_interfaces(monkeypatch, flavour: str) -> None:
    @dataclasses.dataclass
    class Shape:
        channels: int = 0

    monkeypatch.setattr(compat, "ShapeSpec", Shape if flavour == "main" else tuple)
    if flavour == "0.5":
        monkeypatch.delattr(hooks, "BestCheckpointer", raising=False)
    else:
        monkeypatch.setattr(hooks, "BestCheckpointer", object, raising=False)
    assert compat.detectron2_flavour() == flavour


def test_no_detectron2(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    check(
        ROWS["detectron2"](),
        PROBLEM,
        "not installed",
        "python tools/install_detectron2.py",
        "readthedocs",
    )


def test_a_detectron2_without_its_compiled_part(monkeypatch) -> None:
    refuse(monkeypatch, "detectron2.modeling", ImportError("cannot import name '_C' from 'x'"))
    check(ROWS["detectron2"](), PROBLEM, "cannot import name '_C'", "build detectron2")


def test_a_hook_that_fails(monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "somebodys.hook")
    refuse(monkeypatch, "detectron2", AttributeError("no such key"))
    check(ROWS["detectron2"](), PROBLEM, "no such key", "DETECTRON2_ENV_MODULE=somebodys.hook")


def test_detectron2_is_told_even_where_lambda_det_is_broken(monkeypatch) -> None:
    refuse(monkeypatch, "lambda_det.compat", ImportError("broken"))
    check(ROWS["detectron2"](), OK, "interfaces of unknown (broken)")


def test_no_compiled_operators_are_no_problem(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2._C", None)
    check(ROWS["compiled operators"](), OK, "none", "rotated boxes")
    stand_in(monkeypatch, "detectron2._C", __file__="detectron2/_C.py")
    check(ROWS["compiled operators"](), OK, "Python only", "deformable")


def test_operators_of_another_torch(monkeypatch) -> None:
    refuse(monkeypatch, "detectron2._C", ImportError("_C.so: undefined symbol: _ZN3c10"))
    check(ROWS["compiled operators"](), PROBLEM, "undefined symbol", "build detectron2 again")


@pytest.mark.parametrize("gpu", [False, True])
def test_operators_without_cuda(monkeypatch, gpu: bool) -> None:
    names = {"has_cuda": lambda: False, "get_compiler_version": lambda: "GCC 12"}
    stand_in(monkeypatch, "detectron2._C", __file__="detectron2/_C.so", **names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    words = ("without CUDA", "FORCE_CUDA=1") if gpu else ("GCC 12",)
    check(ROWS["compiled operators"](), WARNING if gpu else OK, *words)


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("x = np.int(3)", PROBLEM, ("detectron2/a.py uses np.int", "numpy<1.24")),
        ("Image.LINEAR", PROBLEM, ("detectron2/a.py uses Image.LINEAR", "Pillow<10")),
        ("np.float\nImage.LINEAR", PROBLEM, ("np.float", "Image.LINEAR", "numpy<1.24", "Pillow<")),
        ("np.float32 + np.integer\nImage.BILINEAR\nmy_np.int_", OK, ()),
        ("import pkg_resources", WARNING, ("model_zoo", "setuptools<81")),
    ],
)
def test_names_that_the_libraries_have_dropped(monkeypatch, tmp_path, source, status, words):
    folder = tmp_path / "detectron2"
    folder.mkdir()
    (folder / "a.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(detector, "source_folder", lambda _name: folder)
    numpy = {"float32": 0, "integer": 0}
    stand_in(monkeypatch, "numpy", **numpy)
    stand_in(monkeypatch, "PIL.Image", BILINEAR=2)
    monkeypatch.setattr(detector, "is_there", lambda _name: False)
    check(ROWS["dropped names"](), status, *words)


def test_names_are_looked_up_without_an_import(monkeypatch) -> None:
    # it may be these names that its import fails of
    refuse(monkeypatch, "detectron2", AttributeError("module 'PIL.Image' has no 'LINEAR'"))
    assert ROWS["dropped names"]().status in (OK, WARNING)
    monkeypatch.setattr(detector, "source_folder", lambda _name: None)
    check(ROWS["dropped names"](), WARNING, "detectron2 is not installed")
    monkeypatch.undo()
    assert detector.source_folder("none_such_package") is None


def test_a_name_that_is_there_again_is_no_pitfall(monkeypatch, tmp_path) -> None:
    folder = tmp_path / "detectron2"  # np.bool came back with numpy 2
    folder.mkdir()
    (folder / "a.py").write_text("np.bool", encoding="utf-8")
    monkeypatch.setattr(detector, "source_folder", lambda _name: folder)
    stand_in(monkeypatch, "numpy", bool=bool)
    check(ROWS["dropped names"](), OK)


def test_lambda_det_that_cannot_be_imported(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lambda_det", None)
    check(ROWS["lambda_det"](), PROBLEM, "not installed", "pip install -e .")


@pytest.mark.usefixtures("quick_weights")
def test_a_training_step() -> None:
    check(ROWS["a training step"](), OK, "Mask R-CNN on", "loss", "detections")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite(monkeypatch, where: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, _pictures: list) -> dict:
            if where == "loss":
                return {"loss_mask": self.weight.sum() * float("nan")}
            return {"loss_mask": self.weight.sqrt().sum()}  # its slope at 0 is infinite

    monkeypatch.setattr(detector, "_tiny_model", lambda _device: Model())
    words = "loss_mask" if where == "loss" else "weight"
    check(ROWS["a training step"](), PROBLEM, "not finite", words, "MODEL.DEVICE cpu")


def test_the_tiny_model_is_a_lambda_network() -> None:
    model = detector._tiny_model("cpu")
    assert any(name.endswith("lambda_layer.embedding") for name, _ in model.named_parameters())
