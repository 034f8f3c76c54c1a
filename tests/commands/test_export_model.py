"""The command export_model: what it prints, writes and refuses."""

from __future__ import annotations

import pytest
import torch

from lambda_det.commands import export_model
from lambda_det.export import formats

pytestmark = pytest.mark.slow

SMALL = ("MODEL.LAMBDA_RESNET.DEPTH", "26", "MODEL.FPN.OUT_CHANNELS", "16")


@pytest.fixture
def tool(project):
    """A function that runs the command with arguments and returns its status."""
    config = project / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"

    def run(*arguments: object) -> int:
        return export_model.main(["--config-file", str(config), *map(str, arguments)])

    return run


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_runs_without_this_package(tool, tmp_path, capsys, monkeypatch) -> None:
    path = tmp_path / "backbone.ts"
    assert tool("--format", "torchscript", "--size", 64, 96, "--output", path, *SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "MODEL.WEIGHTS is empty: the exported weights are random"
    assert lines[1].startswith("64 x 96: largest difference ") and "p4 [1, 16, 4, 6]" in lines[1]
    assert lines[2].startswith("96 x 160: ") and lines[3].startswith(f"{path}: largest difference ")
    features = torch.jit.load(path)(torch.rand(3, 3, 32, 64))
    assert [tuple(f.shape) for f in features[:2]] == [(3, 16, 2, 4), (3, 16, 1, 2)]

    path.unlink()
    real = formats.read
    monkeypatch.setattr(
        formats, "read", lambda *args: lambda x: {n: 2 * t for n, t in real(*args)(x).items()}
    )
    assert tool("--format", "torchscript", "--size", 64, 64, "--output", path, *SMALL) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("not written: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{folder}"], "--output {folder}: is a folder, expected the name of a file"),
        (["--output", "{folder}/no/a"], "--output {folder}/no/a: there is no folder {folder}/no"),
        (["--output", "{folder}/a", "--size", "64", "65"], "--size 64 65: expected two multiples"),
        (["--output", "{folder}/a", "--weights", "{folder}/no.pth"], "no.pth"),
        (["--output", "{folder}/a", "--method", "script"], "--format torch_export or onnx"),
        (["--output", "{folder}/a", "MODEL.LAMBDA_RESNET.DEPTH", "7"], "DEPTH=7: expected one of"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[1:]),
)
def test_wrong_input_is_one_line(tool, tmp_path, capsys, arguments, message) -> None:
    filled = [word.format(folder=tmp_path) for word in arguments]
    assert tool("--format", "torchscript", *filled) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    assert message.format(folder=tmp_path) in error[0]
    assert not list(tmp_path.iterdir())
