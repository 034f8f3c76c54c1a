"""The command line: one line for what is wrong, and exit status 2."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

from pretrain_helpers import CONFIG, TINY

from lambda_det.commands import pretrain


@pytest.fixture
def run_tool(project, monkeypatch, capfd):
    """``run_tool(*arguments)``: the exit status and the error lines of the command pretrain."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.chdir(project)
        status = pretrain.main(list(map(str, arguments)))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return status, [line for line in captured.err.splitlines() if line.startswith("error: ")]

    return run


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["PRETRAIN.BATCH_SIZE", 10], ["PRETRAIN.BATCH_SIZE=10", "9 images"]),
        (["PRETRAIN.NUM_CLASSES", 4], ["PRETRAIN.NUM_CLASSES=4", "3 classes"]),
        (["PRETRAIN.EPOCS", 4], ["PRETRAIN.EPOCS"]),
        (["PRETRAIN.EPOCHS", "many"], ["PRETRAIN.EPOCHS", "many"]),
        (["MODEL.LAMBDA_RESNET.STEM", "v2"], ["MODEL.LAMBDA_RESNET.STEM='v2'", "'rs'"]),
        (["SOLVER.ACCUMULATE", 2], ["SOLVER.ACCUMULATE=2", "set it to 1"]),
        (["PRETRAIN.EPOCHS"], ["PRETRAIN.EPOCHS", "odd"]),
    ],
)
def test_wrong_key(keys, words, run_tool, image_folder, work):
    status, errors = run_tool(
        "--data", image_folder, "--config-file", CONFIG, *TINY, "OUTPUT_DIR", work / "run", *keys
    )
    assert status == 2 and len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert not list(work.rglob("*.pth"))


def test_missing_data(run_tool, work):
    status, errors = run_tool("--data", work / "none", "--config-file", CONFIG)
    assert status == 2 and errors == [f"error: --data {work / 'none'}: no such folder"]


def test_a_broken_image_stops_the_training_with_its_name(run_tool, image_folder, work):
    import shutil

    data = shutil.copytree(image_folder, work / "data")
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:500])
    status, errors = run_tool(
        "--data", data, "--config-file", CONFIG, *TINY, "OUTPUT_DIR", work / "run",
    )  # fmt: skip
    assert status == 2 and len(errors) == 1
    assert "train" in errors[0] and ".png: cannot be read as an image" in errors[0]


def test_without_timm(run_tool, image_folder, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("lambda_det.pretrain")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    status, errors = run_tool("--data", image_folder, "--config-file", CONFIG)
    assert status == 2
    assert errors == ["error: pretraining needs timm, which is not installed: pip install timm"]
