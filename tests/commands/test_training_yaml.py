"""Every command reads the YAML file of a training as train_net does, and the same modules."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tiny_detector import CONFIG, TINY

from lambda_det.commands import analyze_model, evaluate, export_model, predict, train_net
from lambda_det.comparison.run import Run, train_command, zeroed_command
from lambda_det.configs import load_config
from lambda_det.data import configure_datasets, generate_shapes
from lambda_det.export import export_config

pytestmark = pytest.mark.slow  # builds or trains whole networks

UNREAD = "is not read by this script"


@pytest.fixture(scope="module")
def trained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``c.yaml``, ``w.pth`` and ``data``, which has two of the config's classes."""
    folder = tmp_path_factory.mktemp("trained")
    generate_shapes(folder / "data", num_train=2, num_val=2, seed=0)
    for file in (folder / "data/annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"] = content["categories"][:2]
        kept = {category["id"] for category in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
        file.write_text(json.dumps(content))
    pairs = zip(TINY[::2], TINY[1::2], strict=True)
    tree: dict = {"_BASE_": str(project / CONFIG), "DATASETS": {"COCO_FOLDER": f"{folder}/data"}}
    for key, value in pairs:
        *nodes, last = key.split(".")
        node = tree
        for name in nodes:
            node = node.setdefault(name, {})
        node[last] = value
    # JSON is YAML.
    (folder / "c.yaml").write_text(json.dumps(tree))
    cfg = load_config(str(folder / "c.yaml"))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES != 2
    configure_datasets(cfg)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "w.pth")
    return folder


@pytest.fixture(params=["with its data", "without its data"])
def words(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> list[str]:
    """``--config-file``, and KEY VALUE where the data are not on this machine."""
    config = ["--config-file", str(trained / "c.yaml")]
    missing = ["DATASETS.COCO_FOLDER", str(tmp_path / "elsewhere")]
    return config + (missing if request.param == "without its data" else [])


def test_export(trained: Path, words: list[str], tmp_path: Path, log, monkeypatch) -> None:
    # Boxes of random weights differ in the last digits.
    exported = functools.partial(export_config, tolerance=1e-2)
    monkeypatch.setattr(export_model, "export_config", exported)
    output = tmp_path / "m.ts"
    more = ["--format", "torchscript", "--what", "detector", "--size", "64", "64"]
    config, pairs = words[:2], words[2:]
    given = ["--weights", str(trained / "w.pth"), "--output", str(output), *more]
    assert export_model.main([*config, *given, *pairs]) == 0
    assert output.exists() and UNREAD not in log.text


def test_predict(trained: Path, words: list[str], tmp_path: Path, log) -> None:
    given = [
        "--weights",
        str(trained / "w.pth"),
        "--output",
        str(tmp_path / "out"),
        "--no-pictures",
    ]
    images = ["--input", str(trained / "data/val2017"), "--score-threshold", "0"]
    assert predict.main([*words[:2], *given, *images, *words[2:]]) == 0
    classes = json.loads((tmp_path / "out/images.json").read_text())["categories"]
    names = [category["name"] for category in classes]
    assert len(names) == 2 and (names == ["class 0", "class 1"]) == bool(words[2:])
    assert UNREAD not in log.text


def test_analyze(trained: Path, tmp_path: Path, log) -> None:
    counts = {}
    for data in ("data", "elsewhere"):
        output = tmp_path / f"{data}.json"
        words = ["--config-file", str(trained / "c.yaml"), "--output", str(output), "--size", "64"]
        analyze_model.main([*words, "64", "DATASETS.COCO_FOLDER", str(trained / data)])
        counts[data] = json.loads(output.read_text())["rows"][0]["parameters"]["heads"]
    # A class has a row in cls_score, four in bbox_pred and one in the mask predictor.
    assert counts["data"] < counts["elsewhere"]
    assert UNREAD not in log.text


def test_evaluate(trained: Path, tmp_path: Path, log) -> None:
    config = ["--config-file", str(trained / "c.yaml"), "--weights", str(trained / "w.pth")]
    assert evaluate.main([*config, "OUTPUT_DIR", str(tmp_path)]) == 0
    assert UNREAD not in log.text


@pytest.fixture
def module(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Name of a module in the current folder that registers datasets, and KEY VALUE words."""
    name = "datasets_of_a_test"
    lines = ["from detectron2.data.datasets import register_coco_instances"]
    for split in ("train2017", "val2017"):
        file, images = (
            trained / f"data/annotations/instances_{split}.json",
            trained / "data" / split,
        )
        lines.append(
            f"register_coco_instances('mine_{split}', {{}}, {str(file)!r}, {str(images)!r})"
        )
    (tmp_path / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield name, "DATASETS.TRAIN ('mine_train2017',) DATASETS.TEST ('mine_val2017',)"
    sys.modules.pop(name, None)
    for split in ("train2017", "val2017"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(f"mine_{split}", None)


def test_datasets_of_an_imported_module(
    trained: Path, module: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pairs = module
    commands = []

    def note(parts, options, *, resume: bool) -> dict:
        commands.append(list(parts.resume_command))
        assert next(iter(parts.train_loader))
        return {}

    monkeypatch.setattr(train_net, "run", note)
    words = ["--import", name, "--config-file", str(trained / "c.yaml")]
    own = [*pairs.split(), "DATASETS.COCO_FOLDER", "", "OUTPUT_DIR", str(tmp_path / "run")]
    train_net.main([*words, *own])
    assert commands[0][-5:-2] == ["--import", name, "--config-file"]
    assert commands[0][-2:] == [str(tmp_path / "run/config.yaml"), "--resume"]
    assert evaluate.main([*words, "--weights", str(trained / "w.pth"), *own]) == 0
    assert (tmp_path / "run/inference/metrics.json").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"ModuleNotFoundError: No module named 'absent_module'"),
        ("a = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported(
    content: str | None, reason: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if content is not None:
        (tmp_path / "absent_module.py").write_text(content)
    words = ["--import", "absent_module", "--config-file", CONFIG.rpartition("/")[2]]
    for command, more in ((evaluate, []), (train_net, ["OUTPUT_DIR", str(tmp_path / "out")])):
        assert command.main([*words, *more]) == 2
        assert f"--import absent_module: cannot be imported ({reason})" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_runs_of_a_comparison_import_it() -> None:
    settings = {"SOLVER.EMA_DECAY": 0}
    run = Run("m", "", 1, "c.yaml", (), folder="f", modules=("mine",), settings=settings)
    for command in (train_command(run), zeroed_command(run)):
        assert command[command.index("--import") + 1] == "mine"
