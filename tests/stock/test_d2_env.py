"""detectron2's own, unchanged scripts through DETECTRON2_ENV_MODULE=lambda_det.d2_env."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import defaults
from detectron2.config import get_cfg as get_stock_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY
from stock_helpers import SMALL

from lambda_det import get_cfg
from lambda_det.d2_env import setup_environment
from lambda_det.data import configure_datasets

TRAIN_NET_VARIABLE = "LAMBDA_DET_D2_TRAIN_NET"
CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
# What detectron2's tools/train_net.py does, in v0.5 and since, with the evaluator of a COCO set.
TRAIN_NET = """
import os
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator

class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, name, output_folder=None):
        assert MetadataCatalog.get(name).evaluator_type == "coco"
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return COCOEvaluator(name, output_dir=folder, use_fast_impl=False)

def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()

if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main, args.num_gpus, num_machines=args.num_machines, machine_rank=args.machine_rank,
        dist_url=args.dist_url, args=(args,),
    )
"""


def run_python(project: Path, *arguments: object, **environment: object):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(project)]))
    more = {name: str(value) for name, value in environment.items()}
    more["DETECTRON2_ENV_MODULE"] = "lambda_det.d2_env"
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **more},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(params=["as written here", "upstream's file"])
def train_net(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A train_net.py that has never heard of lambda_det."""
    if request.param == "as written here":
        path = tmp_path / "train_net.py"
        path.write_text(TRAIN_NET, encoding="utf-8")
        return path
    if not os.environ.get(TRAIN_NET_VARIABLE):
        pytest.skip(f"name detectron2's tools/train_net.py in {TRAIN_NET_VARIABLE}")
    return Path(os.environ[TRAIN_NET_VARIABLE])


@pytest.mark.slow
def test_plain_train_net_runs_a_shipped_config(
    project: Path, stock_folder: Path, train_net: Path, tmp_path: Path
) -> None:
    result = run_python(
        project, train_net, "--config-file", project / CONFIG, *SMALL,
        "DATASETS.TRAIN", "('coco_folder_train2017',)",
        "DATASETS.TEST", "('coco_folder_val2017',)", "OUTPUT_DIR", tmp_path / "run",
        LAMBDA_DET_COCO_FOLDER=stock_folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    metrics = {key for line in lines for key in json.loads(line)}
    assert {"total_loss", "bbox/AP", "segm/AP"} <= metrics
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert "LAMBDA_RESNET" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_lambda_det_may_be_imported_first(project: Path) -> None:
    # It imports detectron2, which calls the hook while lambda_det is half imported.
    code = """
import lambda_det
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY
assert "build_lambda_resnet_fpn_backbone" in BACKBONE_REGISTRY
assert get_cfg().MODEL.LAMBDA_RESNET.VARIANT == "lambda"
assert lambda_det.get_cfg() == get_cfg()
"""
    result = run_python(project, "-c", code)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change of detectron2's default config stays in the test."""
    monkeypatch.setattr(defaults, "_C", defaults._C.clone())


@pytest.fixture
def no_folder_sets():
    """None of a folder's sets is registered, before and after."""
    names = [name for name in DatasetCatalog.list() if name.startswith("coco_folder_")]
    kept = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    yield
    for name in [n for n in DatasetCatalog.list() if n.startswith("coco_folder_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for name, (function, metadata) in kept.items():
        DatasetCatalog[name], MetadataCatalog[name] = function, metadata


@pytest.mark.usefixtures("own_defaults")
def test_the_keys_are_in_detectron2s_own_config() -> None:
    assert "LAMBDA_RESNET" not in get_stock_cfg().MODEL
    ours = get_cfg()
    setup_environment()
    setup_environment()
    assert get_stock_cfg() == ours
    assert "build_lambda_resnet_backbone" in BACKBONE_REGISTRY


@pytest.mark.usefixtures("own_defaults", "no_folder_sets")
def test_splits_of_the_folder_are_read_when_asked_for(stock_folder, monkeypatch) -> None:
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(stock_folder))
    setup_environment()
    name = "coco_folder_train2017"
    metadata = MetadataCatalog.get(name)
    assert metadata.evaluator_type == "coco" and not hasattr(metadata, "thing_classes")
    records = DatasetCatalog.get(name)
    assert len(records) == 4 and Path(records[0]["file_name"]).is_file()
    assert len(metadata.thing_classes) == 4
    DatasetCatalog.get(name)  # a trainer and its evaluator both do
    setup_environment()
    assert MetadataCatalog.get(name) is metadata
    # and our own tools take the same folder up from there
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), (name,)
    configure_datasets(cfg)
    assert (name,) == cfg.DATASETS.TRAIN and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4


@pytest.mark.usefixtures("own_defaults", "no_folder_sets")
def test_a_folder_without_splits_is_said(tmp_path, monkeypatch, log) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        log.clear()
        monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(folder))
        setup_environment()
        (line,) = [r.getMessage() for r in log.records if r.name == "lambda_det.d2_env"]
        assert str(folder) in line and "no split" in line
