"""The doctor on GPU, cores, memory, disk and datasets: stand-ins for other machines."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doctor_helpers import check

from lambda_det import layers
from lambda_det.data import generate_shapes
from lambda_det.doctor import datasets, machine
from lambda_det.doctor.findings import OK, PROBLEM, WARNING
from lambda_det.layers import triton_lambda

ROWS = {check.name: check.run for check in (*machine.CHECKS, *datasets.CHECKS)}


def other_gpu(monkeypatch, *, available: bool, built: str | None, driver: str, **names) -> None:
    """A torch that sees what is said."""
    properties = SimpleNamespace(name="H200", total_memory=140 * 2**30, major=9, minor=0)
    cuda = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: 1,
        get_device_properties=lambda _index: properties,
        is_bf16_supported=lambda: True,
        init=lambda: None,
    )
    vars(cuda).update(names)
    ones = lambda *shape, device: torch.ones(*shape)  # noqa: E731
    module = SimpleNamespace(
        cuda=cuda, version=SimpleNamespace(cuda=built, hip=None), ones=names.get("ones", ones)
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setattr(machine, "nvidia_driver", lambda: driver)


def test_a_gpu_that_works(monkeypatch) -> None:
    other_gpu(monkeypatch, available=True, built="13.0", driver="580.1")
    words = "H200 (140 GiB, capability 9.0)", "with bfloat16", "580.1", "CUDA 13.0"
    check(ROWS["GPU"](), OK, *words)


def test_no_gpu(monkeypatch) -> None:
    other_gpu(monkeypatch, available=False, built="13.0", driver="")
    check(ROWS["GPU"](), WARNING, "none seen", "MODEL.DEVICE cpu")


def test_a_gpu_with_a_torch_for_the_cpu(monkeypatch) -> None:
    other_gpu(monkeypatch, available=False, built=None, driver="580.1")
    check(ROWS["GPU"](), PROBLEM, "580.1", "built for the CPU alone", "pytorch.org")


def test_a_driver_that_is_too_old(monkeypatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nPlease update")

    other_gpu(monkeypatch, available=False, built="13.0", driver="450.2", init=init)
    check(ROWS["GPU"](), PROBLEM, "450.2", "is too old", "CUDA_VISIBLE_DEVICES")


def test_a_gpu_that_torch_is_not_built_for(monkeypatch) -> None:
    def ones(*_shape, device: str):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    other_gpu(monkeypatch, available=True, built="13.0", driver="580.1", ones=ones)
    check(ROWS["GPU"](), PROBLEM, "H200", "no kernel image", "not built for it")


def test_a_gpu_that_miscomputes(monkeypatch) -> None:
    ones = lambda *shape, device: torch.zeros(*shape)  # noqa: E731
    other_gpu(monkeypatch, available=True, built="13.0", driver="580.1", ones=ones)
    check(ROWS["GPU"](), PROBLEM, "wrong product")


def test_the_driver_is_what_nvidia_smi_says(monkeypatch, tmp_path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.82.07\necho 580.82.07\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert machine.nvidia_driver() == "580.82.07"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n", encoding="utf-8")
    assert machine.nvidia_driver() == ("present" if Path("/dev/nvidia0").exists() else "")


def test_the_kernel_where_it_cannot_run(monkeypatch) -> None:
    monkeypatch.setattr(triton_lambda, "unsupported", lambda *_tensors: "Triton is not installed")
    check(ROWS["lambda kernel"](), OK, "triton is not installed", "other back ends")


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [(0.0, OK, "BACKEND triton"), (0.5, PROBLEM, "differs"), (None, WARNING, "out of shared")],
)
def test_the_kernel_where_it_can(monkeypatch, wrong, status: str, words: str) -> None:
    original = layers.position_lambda

    def position_lambda(*tensors, backend: str):
        if backend == "triton" and wrong is None:
            raise RuntimeError("out of shared memory")
        return original(*tensors, backend="reference") + (backend == "triton") * (wrong or 0)

    monkeypatch.setattr(triton_lambda, "unsupported", lambda *_tensors: None)
    monkeypatch.setattr(layers, "position_lambda", position_lambda)
    check(ROWS["lambda kernel"](), status, words)


def test_more_threads_than_cores(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    check(ROWS["cores"](), WARNING, "2 usable", "8 threads", "export OMP_NUM_THREADS=2")
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    check(ROWS["cores"](), OK, "8 usable", "OMP_NUM_THREADS=8")


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000", 2), ("max 100000", 4), ("10000 100000", 1)]
)
def test_a_containers_share_of_the_cores(monkeypatch, text: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(4)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _path: text)
    assert machine.usable_cores() == expected


def test_little_shared_memory(monkeypatch) -> None:
    small = SimpleNamespace(f_frsize=4096, f_blocks=64 * 2**20 // 4096)
    monkeypatch.setattr(os, "statvfs", lambda _path: small)
    check(ROWS["shared memory"](), WARNING, "0.062 GiB", "--shm-size", "NUM_WORKERS 0")

    def statvfs(_path: str):
        raise FileNotFoundError(2, "No such file")

    monkeypatch.setattr(os, "statvfs", statvfs)
    check(ROWS["shared memory"](), OK, "no /dev/shm")


@pytest.mark.parametrize(("free", "status"), [(2**20, PROBLEM), (2 * 2**30, WARNING), (2**40, OK)])
def test_a_disk_that_fills_up(monkeypatch, tmp_path, free: int, status: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    usage = SimpleNamespace(total=2**41, used=0, free=free)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _path: usage)
    check(ROWS["disk"](), status, ". and ./output can be written")
    assert not list(tmp_path.glob("output/*"))


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(dir: Path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    check(ROWS["disk"](), PROBLEM, str(tmp_path), "Read-only file system", "OUTPUT_DIR")


def test_datasets(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    check(ROWS["datasets"](), WARNING, "none found", "python tools/make_shapes_dataset.py")

    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(tmp_path / "nowhere"))
    check(ROWS["datasets"](), PROBLEM, "nowhere: no such folder", "unset")
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(tmp_path))
    check(ROWS["datasets"](), PROBLEM, "no split in COCO layout", "instances_SPLIT.json")

    generate_shapes(tmp_path / "datasets" / "coco", num_train=3, num_val=2, seed=0)
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(tmp_path / "datasets" / "coco"))
    found = ROWS["datasets"]()
    check(found, OK, "train2017 (3 images), val2017 (2 images)", "detectron2's datasets/coco")
    monkeypatch.delenv("LAMBDA_DET_COCO_FOLDER")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    check(ROWS["datasets"](), OK, "train2017 (3 images)")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    check(ROWS["datasets"](), WARNING, "none found; DETECTRON2_DATASETS holds no coco/")


def test_a_json_without_its_images_and_one_that_is_broken(monkeypatch, tmp_path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_a.json").write_text("{")  # it is not read
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(tmp_path))
    check(ROWS["datasets"](), OK, "a (without images)")
