"""A small suite whose runs are a few lines of Python instead of a training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from lambda_det import get_cfg
from lambda_det.comparison.suite import Run
from lambda_det.evaluation.metrics import METRICS

# Writes what a training writes; its numbers follow from model and seed. Arguments: model, seed,
# folder. Files beside runs/: "break" names models that fail, "wait" models that wait while it is
# there, "stop" models that a signal ends, MODEL.json holds a model's detections. It imports nothing
# of ours, which takes seconds.
FAKE = """
import json, pathlib, shutil, sys, time
model, seed, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
root = next(parent.parent for parent in folder.parents if parent.name == "runs")
with open(root / "started.txt", "a") as file:
    print(model, seed, *folder.name.split("_")[1:], file=file, flush=True)
def named(name):
    return (root / name).is_file() and model in (root / name).read_text()
if named("break"):
    sys.exit("error: no such thing")
(folder / "last_checkpoint").write_text("x")
while named("wait"):
    time.sleep(0.02)
shutil.copy(root / "config.yaml", folder)
line = {"iteration": 19, "time": 0.2 + 0.1 * seed, "total_loss": 3 + seed}
line["last_norm/res4"] = 0.1 * seed
(folder / "model_final.pth").write_text("x")
(folder / "metrics.json").write_text(json.dumps(line))
summary = {"inference_ms_per_image": 10.0 * seed, "peak_host_memory_mib": 500.0 + seed}
(folder / "summary.json").write_text(json.dumps(summary))
ap = {"plain": 30, "lambda": 33}[model] + seed + (seed == 2 and model == "lambda")
ap += 10 * (folder.parents[1].name == "easy")
ap -= {"plain": -1, "lambda": 6}[model] * folder.name.endswith("_without")
values = json.loads((root / "values.json").read_text()) | {"AP": ap, "APl": None}
classes = [{"id": 1, "name": "<ring>", "AP": ap - 5}, {"id": 2, "name": "disc", "AP": None}]
(folder / "inference").mkdir()
metrics = {"bbox": values | {"per_class": classes}}
(folder / "inference" / "metrics.json").write_text(json.dumps(metrics))
if named("stop"):
    facts = {"signal": "SIGTERM", "iteration": 12, "max_iter": 20}
    (folder / "interrupted.json").write_text(json.dumps(facts))
if (root / f"{model}.json").is_file():
    shutil.copy(root / f"{model}.json", folder / "inference" / "coco_instances_results.json")
"""


# Writes what an evaluation with zeroed branches writes. Arguments: model, folder. "break_zeroed"
# names models whose evaluation fails.
FAKE_ZEROED = """
import json, pathlib, sys
model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
root = next(parent.parent for parent in folder.parents if parent.name == "runs")
with open(root / "zeroed.txt", "a") as file:
    print(model, folder.name, file=file, flush=True)
broken = root / "break_zeroed"
if broken.is_file() and model in broken.read_text():
    sys.exit("error: no such weights")
metrics = json.loads((folder / "inference" / "metrics.json").read_text())
metrics["bbox"]["AP"] -= {"plain": 0.25, "lambda": 20}[model]
(folder / "zeroed_res4_res5" / "inference").mkdir()
(folder / "zeroed_res4_res5" / "inference" / "metrics.json").write_text(json.dumps(metrics))
"""


def fake_zeroed(run: Run) -> list[str]:
    """The command that evaluates a run with zeroed branches."""
    return [sys.executable, "-c", FAKE_ZEROED, run.model, run.folder]


def fake_training(run: Run) -> list[str]:
    """The command of a run."""
    return [sys.executable, "-c", FAKE, run.model, str(run.seed), run.folder]


def make_output(folder: Path) -> Path:
    """The folder of a comparison, with what the runs above need."""
    folder.mkdir()
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "values.json").write_text(json.dumps(dict.fromkeys(METRICS, 10.0)))
    return folder


def small_suite(project: Path) -> dict:
    """Two models, three seeds."""
    config = str(project / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml")
    return {
        "name": "small",
        "baseline": "plain",
        "seeds": [1, 2, 3],
        "controls": [],
        "overrides": {"SOLVER.MAX_ITER": 20, "DATASETS.COCO_FOLDER": "{output}/data"},
        "models": {
            "plain": {
                "config": config,
                "label": "R-50",
                "overrides": {"MODEL.LAMBDA_RESNET.VARIANT": "resnet"},
            },
            "lambda": {"config": config, "label": "λ-50"},
        },
    }


def write_file(path: Path, content: object) -> str:
    """A suite file, of its content or of its text."""
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return str(path)
