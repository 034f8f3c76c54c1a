"""The doctor on libraries that are missing, broken or of another release: stand-ins."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
from doctor_helpers import check, refuse, stand_in

from lambda_det.doctor import packages
from lambda_det.doctor.findings import OK, PROBLEM, WARNING

ROWS = {check.name: check.run for check in packages.CHECKS}


@pytest.mark.parametrize("name", ROWS)
def test_this_environment_is_whole(name: str) -> None:
    check(ROWS[name](), OK)


@pytest.mark.parametrize(
    ("row", "module", "package"),
    [
        ("torch", "torch", "pytorch.org"), ("torchvision", "torchvision", "torchvision"),
        ("numpy", "numpy", "numpy"), ("Pillow", "PIL.Image", "Pillow"),
        ("OpenCV", "cv2", "opencv-python-headless"),
        ("pycocotools", "pycocotools.mask", "pycocotools"),
        ("fvcore", "fvcore", "fvcore>=0.1.5"), ("shapely", "shapely.geometry", "shapely"),
    ],
)  # fmt: skip
def test_a_missing_library(monkeypatch, row: str, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    check(ROWS[row](), PROBLEM, "not installed", package)


def test_a_library_that_needs_a_missing_one_is_not_called_missing(monkeypatch) -> None:
    refuse(monkeypatch, "fvcore", ModuleNotFoundError("No module named 'yacs'", name="yacs"))
    check(ROWS["fvcore"](), PROBLEM, "cannot be imported: No module named 'yacs'")


def test_a_torch_that_cannot_work_with_numpy(monkeypatch) -> None:
    def zeros(_count: int):
        raise RuntimeError("Numpy is not available\nand more")

    stand_in(monkeypatch, "torch", __version__="2.0.1", zeros=zeros)
    check(ROWS["torch"](), PROBLEM, "2.0.1", "Numpy is not available", "numpy<2")


@pytest.mark.parametrize(
    ("cuda", "hip", "words"),
    [("12.1", None, "CUDA 12.1"), (None, "6.0", "ROCm 6.0"), (None, None, "the CPU alone")],
)
def test_what_torch_is_built_for(monkeypatch, cuda, hip, words: str) -> None:
    zeros = lambda _count: SimpleNamespace(numpy=list)  # noqa: E731
    version = SimpleNamespace(cuda=cuda, hip=hip)
    stand_in(monkeypatch, "torch", __version__="2.9", zeros=zeros, version=version)
    check(ROWS["torch"](), OK, words)


def test_a_torchvision_of_another_torch(monkeypatch) -> None:
    def nms(*_arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    stand_in(monkeypatch, "torchvision", __version__="0.28.0")
    stand_in(monkeypatch, "torchvision.ops", nms=nms)
    check(ROWS["torchvision"](), PROBLEM, "0.28.0 does not fit torch", "nms does not", "0.(N+15)")


def test_a_torchvision_that_keeps_both_boxes(monkeypatch) -> None:
    torch = importlib.import_module("torch")
    stand_in(monkeypatch, "torchvision.ops", nms=lambda *_arguments: torch.tensor([0, 1]))
    check(ROWS["torchvision"](), PROBLEM, "keeps boxes [0, 1]")


def test_opencv_without_libgl(monkeypatch) -> None:
    text = "libGL.so.1: cannot open shared object file: No such file or directory"
    refuse(monkeypatch, "cv2", ImportError(text))
    check(ROWS["OpenCV"](), PROBLEM, "libGL.so.1", "opencv-python-headless", "libgl1")


def test_pycocotools_of_another_numpy(monkeypatch) -> None:
    error = ValueError("numpy.dtype size changed, may indicate binary incompatibility")
    refuse(monkeypatch, "pycocotools.mask", error)
    check(ROWS["pycocotools"](), PROBLEM, "numpy.dtype size changed", "--force-reinstall")


def test_pycocotools_that_miscounts(monkeypatch) -> None:
    stand_in(monkeypatch, "pycocotools.mask", encode=lambda mask: mask, area=lambda _mask: 5)
    check(ROWS["pycocotools"](), PROBLEM, "counts 5 pixels in a mask of 6")


def test_a_shapely_that_cuts_wrongly(monkeypatch) -> None:
    box = SimpleNamespace(intersection=lambda _other: SimpleNamespace(area=7))
    stand_in(monkeypatch, "shapely.geometry", box=lambda *_sides: box)
    check(ROWS["shapely"](), PROBLEM, "7 in place of 6")


def test_other_packages_are_named_as_pip_knows_them(monkeypatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda name: name not in ("yaml", "tqdm"))
    check(ROWS["other packages"](), PROBLEM, "not installed: PyYAML, tqdm", "install PyYAML tqdm")


def test_optional_packages_may_be_absent(monkeypatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda name: False)
    check(ROWS["optional packages"](), OK, "not installed: faster-coco-eval", "timm://", "(SLURM)")


def test_a_folder_that_is_no_package(monkeypatch) -> None:
    monkeypatch.setattr(packages, "is_there", lambda name: name == "none_such")
    monkeypatch.setitem(packages.OPTIONAL, "none_such", ("none-such", "nothing"))
    check(ROWS["optional packages"](), WARNING, "none-such", "--force-reinstall")
