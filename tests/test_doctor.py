"""The doctor: what it finds where something is missing, broken or of another release."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from detectron2.engine import hooks

from lambda_det import compat, doctor
from lambda_det.data import generate_shapes
from lambda_det.doctor import CHECKS, OK, PROBLEM, WARNING, Trouble, examine, main

COMMAND = "import lambda_det_command as c; sys.exit(c.main())"


def run_doctor(
    project: Path, code: str, *words: str, first: Path | None = None
) -> subprocess.CompletedProcess:
    """A process of its own that runs ``code``, with the folder ``first`` before all others."""
    path = [str(first or ""), os.environ.get("PYTHONPATH", ""), str(project)]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", *words],
        cwd=project, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def tool(project: Path) -> str:
    path = str(project / "tools" / "doctor.py")
    return f"import runpy; runpy.run_path({path!r}, run_name='__main__')"


def look(name: str, status: str, *words: str) -> dict[str, str]:
    """The row of one check, which has to end so and say that."""
    check = next(check for check in CHECKS if check[0] == name)
    (row,) = examine([check])
    text = f"{row['found']} | {row['fix']}"
    assert row["status"] == status and bool(row["fix"]) == (status != OK), row
    assert "\n" not in text and all(word in text for word in words), text
    return row


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Let the import of ``name`` raise."""
    original = importlib.import_module

    def import_module(wanted: str, *rest):
        if wanted == name:
            raise error
        return original(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)


@pytest.mark.slow
def test_the_real_environment(project: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.json"
    result = run_doctor(project, tool(project), "--output", str(output))
    assert result.returncode == 0, result.stdout + result.stderr
    data = json.loads(output.read_text(encoding="utf-8"))
    assert set(data) == {"schema", "status", "seconds", "findings", "environment"}
    assert data["schema"] == 1 and data["status"] in (OK, WARNING)
    assert [row["name"] for row in data["findings"]] == [check[0] for check in CHECKS]
    for row in data["findings"]:
        assert set(row) == {"name", "status", "found", "fix", "seconds"}
        assert bool(row["fix"]) == (row["status"] != OK)
        assert row["found"] in result.stdout and row["fix"] in result.stdout
    assert "PyTorch built with" in data["environment"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a checkout", "an installed package"])
def test_without_torch(project: Path, tmp_path: Path, place: str) -> None:
    """It says so, looks at the rest, and neither needs nor imports lambda_det."""
    code, words = f"sys.modules['torch'] = sys.modules['lambda_det'] = None; {tool(project)}", []
    if place != "a checkout":
        (tmp_path / "lambda_det").mkdir()
        shutil.copy(project / "lambda_det" / "doctor.py", tmp_path / "lambda_det")
        shutil.copy(project / "lambda_det_command.py", tmp_path)
        code, words = f"sys.modules['torch'] = None; {COMMAND}", ["doctor"]
    result = run_doctor(project, code, *words, "--json", first=tmp_path)
    assert result.returncode == 1, result.stderr
    data = json.loads(result.stdout)
    found = {row["name"]: row for row in data["findings"]}
    assert data["status"] == found["torch"]["status"] == PROBLEM
    assert "torch" in found["torch"]["found"] and "pytorch.org" in found["torch"]["fix"]
    for name in ("GPU", "torchvision", "detectron2", "lambda_det", "datasets"):
        assert found[name]["found"] == "not checked, because torch has a problem", name
        assert (found[name]["status"], found[name]["fix"]) == (WARNING, "fix torch first")
    assert found["other packages"]["status"] == found["OpenCV"]["status"] == OK
    assert "collect_env does not run here" in data["environment"]


@pytest.mark.slow
def test_without_detectron2(project: Path) -> None:
    code = "sys.modules['detectron2'] = sys.modules['lambda_det'] = None; "
    result = run_doctor(project, code + tool(project), "--json")
    assert result.returncode == 1, result.stderr
    found = {row["name"]: row for row in json.loads(result.stdout)["findings"]}
    assert found["detectron2"]["found"] == "detectron2 is not installed"
    assert "python tools/install_detectron2.py" in found["detectron2"]["fix"]
    assert found["lambda_det"]["found"] == "not checked, because detectron2 has a problem"
    assert found["torchvision"]["status"] == OK


@pytest.mark.slow
def test_other_tools_without_torch_are_one_line(project: Path) -> None:
    result = run_doctor(project, f"sys.modules['torch'] = None; {COMMAND}", "train_net", "--help")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and "'lambda_det doctor' says" in result.stderr


def test_no_check_ends_the_others() -> None:
    def leave() -> str:
        raise SystemExit(3)

    def warn() -> str:
        raise Trouble("slow", status=WARNING)

    rows = examine([
        ("leaves", leave, "advice", ()), ("warns", warn, "usual", ()),
        ("late", leave, "", ("leaves",)), ("later", leave, "", ("warns", "late")),
        ("last", lambda: "fine", "", ("warns",)),
    ])  # fmt: skip
    assert [(row["status"], row["found"], row["fix"]) for row in rows] == [
        (PROBLEM, "SystemExit: 3", "advice"), (WARNING, "slow", "usual"),
        *[(WARNING, "not checked, because leaves has a problem", "fix leaves first")] * 2,
        (OK, "fine", ""),
    ]  # fmt: skip


def test_what_a_library_prints_is_not_in_the_json(monkeypatch, capsys, tmp_path) -> None:
    def noisy() -> list[dict]:
        print("hello from a library")
        return [dict(name="a", status=PROBLEM, found="b", fix="c", seconds=0.1)]

    monkeypatch.setattr(doctor, "examine", noisy)
    monkeypatch.setattr(doctor, "environment", lambda: "")
    assert main(["--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["findings"][0]["found"] == "b" and "hello" in said.err
    assert main(["--output", str(tmp_path / "none" / "o.json")]) == 2
    error = capsys.readouterr().err
    assert "error: --output" in error and "No such file" in error


def test_packages_are_named_as_pip_knows_them(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    changed = ValueError("numpy.dtype size changed, may indicate binary incompatibility\nmore")
    refuse(monkeypatch, "pycocotools.mask", changed)
    row = look("other packages", PROBLEM, "yaml", "ValueError: numpy.dtype size changed")
    assert row["fix"] == (
        "python -m pip install --force-reinstall --no-deps pycocotools"
        " && python -m pip install PyYAML"
    )


def test_a_torch_that_cannot_work_with_numpy(monkeypatch) -> None:
    def zeros(_count: int):
        raise RuntimeError("Numpy is not available\nand more")

    monkeypatch.setattr(torch, "zeros", zeros)
    look("torch", PROBLEM, "RuntimeError: Numpy is not available", '"numpy<2"')


def test_a_torchvision_of_another_torch(monkeypatch) -> None:
    def nms(*_arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", nms)
    words = f"does not fit torch {torch.__version__} on cpu", "nms does not exist", "0.(N+15)"
    look("torchvision", PROBLEM, *words)


def test_opencv_without_libgl(monkeypatch) -> None:
    refuse(monkeypatch, "cv2", ImportError("libGL.so.1: cannot open shared object file"))
    look("OpenCV", PROBLEM, "libGL.so.1", "uninstall --yes opencv-python &&", "python-headless")


@pytest.mark.parametrize("name", ["detectron2.modeling", "detectron2._C"])
def test_a_detectron2_of_another_torch(monkeypatch, name: str) -> None:
    refuse(monkeypatch, name, ImportError("_C.so: undefined symbol: _ZN3c10"))
    look("detectron2", PROBLEM, "undefined symbol", "install it for this torch", "tools/install_")


def test_a_detectron2_without_a_compiled_part(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2._C", None)
    look("detectron2", OK)


@pytest.mark.parametrize("flavour", ["0.5", "0.6", "main"])
def test_detectron2_is_told_by_its_interfaces(monkeypatch, flavour: str) -> None:
    shape = dataclasses.make_dataclass("Shape", ["channels"]) if flavour == "main" else tuple
    monkeypatch.setattr(compat, "ShapeSpec", shape)
    monkeypatch.setattr(hooks, "BestCheckpointer", object, raising=False)
    if flavour == "0.5":
        monkeypatch.delattr(hooks, "BestCheckpointer")
    look("lambda_det", OK, f"on detectron2 {flavour}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = np.int(3)", ("a.py uses np.int, which numpy", "numpy<1.24")),
        ("Image.LINEAR", ("a.py uses Image.LINEAR, which PIL.Image", "Pillow<10")),
    ],
)
def test_names_that_libraries_have_dropped(monkeypatch, tmp_path, source: str, words) -> None:
    (tmp_path / "a.py").write_text(f"np.float32\n{source}", encoding="utf-8")
    monkeypatch.setattr(doctor, "detectron2_folder", lambda: tmp_path)
    for name in ("numpy", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    # Its import, which may fail of them, is not reached.
    refuse(monkeypatch, "detectron2.modeling", AssertionError("imported"))
    look("detectron2", PROBLEM, *words)


@pytest.mark.parametrize(
    ("device", "built", "status", "words"),
    [
        (False, "13.0", WARNING, ("no GPU found", "MODEL.DEVICE cpu")),
        (True, None, PROBLEM, ("built without CUDA", "pytorch.org")),
        (True, "13.0", PROBLEM, ("driver is too old", "nvidia-smi")),
    ],
)
def test_no_gpu(monkeypatch, device: bool, built: str | None, status: str, words) -> None:
    """A machine with or without a device file, and a torch that sees none."""

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver is too old\nPlease update")

    monkeypatch.setattr(Path, "glob", lambda _folder, _pattern: iter(["/dev/nvidia3"] * device))
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    look("GPU", status, *words)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_that_works() -> None:
    look("GPU", OK, torch.cuda.get_device_name(), "a convolution works")


@pytest.mark.parametrize(("free", "status"), [(2**20, PROBLEM), (2 * 2**30, WARNING), (2**40, OK)])
def test_a_disk_that_fills_up(monkeypatch, tmp_path, free: int, status: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    usage = SimpleNamespace(free=free, total=64 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    look("disk", status, f"{tmp_path / 'output'} can be written")
    assert not list(tmp_path.glob("output/*"))
    if Path("/dev/shm").is_dir():  # Docker's default
        look("shared memory", WARNING, "0.062 GiB", "--shm-size", "NUM_WORKERS 0")


def test_datasets(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DETECTRON2_DATASETS", "LAMBDA_DET_COCO_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    look("datasets", WARNING, "none in datasets/coco", "python tools/make_shapes_dataset.py")
    coco = tmp_path / "datasets" / "coco"
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(tmp_path))
    look("datasets", PROBLEM, f"{tmp_path}: no such folder, or no split", "instances_SPLIT.json")
    generate_shapes(coco, num_train=3, num_val=2, seed=0)
    names = "coco_folder_train2017, coco_folder_val2017"
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(coco))
    look("datasets", OK, f"{coco}: {names}; datasets/coco: {names}")
    monkeypatch.delenv("LAMBDA_DET_COCO_FOLDER")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    look("datasets", OK, f"{coco}: {names}")
    shutil.rmtree(coco / "train2017")  # a json without its images
    assert "train2017" not in look("datasets", OK, "coco_folder_val2017")["found"]
