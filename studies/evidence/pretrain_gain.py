"""Pretrain a backbone on generated pictures; train detectors from it and from random weights.

Run again with the same --output, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.modeling import build_model

from lambda_det.checkpoint import load_weights
from lambda_det.comparison.statistics import spread
from lambda_det.configs import load_config
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.metrics import METRICS_FILE, TASK_NAMES
from lambda_det.records import (
    make_record,
    read_text,
    record_path,
    results_folder,
    tool_command,
    write_json,
)
from lambda_det.shipped_configs import ROOT
from studies.tables import rows_table

INITIALISATIONS = ("pretrained", "random")
AP_NAMES = ("AP", "AP50")

PRETRAIN_CONFIG = ROOT / "configs" / "pretrain" / "lambda_R_50_shapes_cpu.yaml"
DETECTION_CONFIG = ROOT / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


@dataclass(frozen=True)
class Step:
    """A command, the file that says that it is through, and where its output goes.

    A step whose file is there is passed over, so the experiment is taken up where it stopped. What
    decides its numbers is noted beside the file: other arguments are refused, and not mistaken for
    what is there.
    """

    name: str
    command: list[str]
    done: str
    log: str
    decides: Sequence[str] = ()
    """The arguments that its numbers depend on, without the paths of this checkout and folder."""

    @property
    def note(self) -> str:
        """The file beside ``done`` that holds ``decides``."""
        return f"{self.done}.arguments.json"


@dataclass(frozen=True)
class GainExperiment:
    """Where everything lies and how it is called.

    Attributes:
        output: folder of the experiment.
        dataset_command, pretrain_command, train_command: how the tools are started.
        pretrain_config, detection_config: config files.
        pretrain_keys, detection_keys: KEY VALUE pairs for them.
        seeds: of the detectors; the pretraining is one.
        pictures: number of training and of validation pictures for the pretraining.
    """

    output: str
    dataset_command: Sequence[str]
    pretrain_command: Sequence[str]
    train_command: Sequence[str]
    pretrain_config: str
    detection_config: str
    pretrain_keys: Sequence[str] = ()
    detection_keys: Sequence[str] = ()
    seeds: Sequence[int] = (1, 2, 3)
    pictures: tuple[int, int] = (1600, 200)

    def path(self, *parts: str) -> str:
        """A path in the experiment's folder."""
        return os.path.join(self.output, *parts)

    @property
    def weights(self) -> str:
        """The pretrained weights."""
        return self.path("pretrain", "model_final.pth")

    def run_folder(self, initialisation: str, seed: int) -> str:
        """OUTPUT_DIR of one detector."""
        return self.path(f"{initialisation}_seed{seed}")

    def steps(self) -> list[Step]:
        """All of them, in order."""
        train, val = map(str, self.pictures)
        coco, folder = self.path("shapes"), self.path("imagefolder")
        pictures = ["--num-train", train, "--num-val", val]
        pretraining = [*pictures, os.path.basename(self.pretrain_config), *self.pretrain_keys]
        steps = [
            Step(
                "dataset for detection",
                [*self.dataset_command, "--output", coco],
                os.path.join(coco, "shapes.json"),
                self.path("shapes.log"),
            ),
            Step(
                "dataset for pretraining",
                [*self.dataset_command, "--layout", "imagefolder", "--output", folder] + pictures,
                os.path.join(folder, "val"),
                self.path("imagefolder.log"),
                pictures,
            ),
            Step(
                "pretraining",
                [*self.pretrain_command, "--config-file", self.pretrain_config, "--resume"]
                + ["--data", folder, *self.pretrain_keys, "OUTPUT_DIR", self.path("pretrain")],
                self.weights,
                self.path("pretrain.log"),
                pretraining,
            ),
        ]
        # The two initialisations of a seed one after the other: a machine whose load changes
        # during the hour treats both alike.
        for seed in self.seeds:
            for initialisation in INITIALISATIONS:
                run = self.run_folder(initialisation, seed)
                weights = self.weights if initialisation == "pretrained" else ""
                decides = [os.path.basename(self.detection_config), *self.detection_keys]
                steps.append(
                    Step(
                        f"detector from {initialisation} weights, seed {seed}",
                        [*self.train_command, "--config-file", self.detection_config]
                        + ["DATASETS.COCO_FOLDER", coco, *self.detection_keys]
                        + ["SEED", str(seed), "MODEL.WEIGHTS", weights, "OUTPUT_DIR", run],
                        os.path.join(run, "inference", METRICS_FILE),
                        f"{run}.log",
                        decides + (pretraining if weights else []),
                    )
                )
        return steps


def run_steps(steps: Sequence[Step], report: Callable[[str], None]) -> None:
    """Run what is not through yet, with a line to ``report`` for every step.

    Raises:
        InputError: a command failed or left no file, or a step that is through had other
            arguments; then none is run.
    """
    for step in steps:
        _check_note(step)
    for number, step in enumerate(steps, start=1):
        label = f"[{number}/{len(steps)}] {step.name}"
        if os.path.exists(step.done):
            report(f"{label}: is there")
            continue
        report(f"{label} ...")
        os.makedirs(os.path.dirname(os.path.abspath(step.log)), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(step.note)  # of an output that is gone
        with open(step.log, "w", encoding="utf-8") as file:
            status = subprocess.run(step.command, stdout=file, stderr=file).returncode
        if status or not os.path.exists(step.done):
            raise InputError(f"{step.name}: ended with status {status}, see {step.log}")
        write_json(list(step.decides), step.note)


def _check_note(step: Step) -> None:
    # Without a note it is older than the notes, or was stopped right in front of it.
    if not (os.path.exists(step.done) and os.path.exists(step.note)):
        return
    try:
        noted = json.loads(read_text(step.note))
    except ValueError as error:
        raise InputError(f"{step.note}: is no JSON ({error})") from error
    if noted != list(step.decides):
        raise InputError(
            f"{step.done}: the {step.name} that is there was made with {noted}, not with "
            f"{list(step.decides)}; name another --output, or remove what is there"
        )


def backbone_coverage(experiment: GainExperiment) -> float:
    """Percentage of the detector's backbone parameters that the pretrained weights fill.

    The detector is built and loaded as in training.

    Raises:
        InputError: it is less than all.
    """
    cfg = load_config(experiment.detection_config, list(experiment.detection_keys))
    cfg.MODEL.DEVICE = "cpu"
    return 100 * load_weights(build_model(cfg), experiment.weights).share()


def gain_rows(experiment: GainExperiment) -> list[dict[str, object]]:
    """A row per initialisation: loss on the way and AP at the end, as mean and sd over the seeds.

    The losses are medians of the last 20 iterations, as detectron2 logs them.

    Raises:
        InputError: a run is missing.
    """
    rows = []
    for initialisation in INITIALISATIONS:
        folders = [experiment.run_folder(initialisation, seed) for seed in experiment.seeds]
        curves = [_losses(folder) for folder in folders]
        metrics = [json.loads(read_text(folder, "inference", METRICS_FILE)) for folder in folders]
        logged = sorted(set.intersection(*(set(curve) for curve in curves)))
        row: dict[str, object] = {
            "initialisation": initialisation,
            "iterations": logged[-1],
            "runs": len(folders),
        }
        for iteration in _milestones(logged):
            row[f"loss_at_{iteration}"] = spread([curve[iteration] for curve in curves])
        for task, task_name in TASK_NAMES.items():
            for name in AP_NAMES if task in metrics[0] else ():
                # Null is what a detector without a single detection gets.
                row[f"{task_name}_{name.lower()}"] = spread([m[task][name] or 0.0 for m in metrics])
        rows.append(row)
    rows[0]["backbone_coverage_percent"] = round(backbone_coverage(experiment), 3)
    rows[0]["pretraining_top1_percent"] = _last_top1(experiment)
    return rows


def _milestones(logged: Sequence[int]) -> list[int]:
    """The logged iterations nearest to a fifth, a half and the whole of the run."""
    wanted = (logged[-1] / 5, logged[-1] / 2, logged[-1])
    return sorted({min(logged, key=lambda at: abs(at - target)) for target in wanted})


def _losses(folder: str) -> dict[int, float]:
    """Finished iterations -> total loss, from detectron2's log; a repeated run's last counts."""
    lines = [json.loads(line) for line in read_text(folder, "metrics.json").splitlines()]
    return {line["iteration"] + 1: line["total_loss"] for line in lines if "total_loss" in line}


def _last_top1(experiment: GainExperiment) -> float:
    text = read_text(experiment.path("pretrain", "metrics.json"))
    lines = [json.loads(line) for line in text.splitlines()]
    last = [line for line in lines if "val_top1" in line][-1]
    return round(last.get("ema_top1", last["val_top1"]), 2)


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="output/pretrain_gain", metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=200, help="of each detector")
    parser.add_argument("--pictures", type=int, nargs=2, default=[1600, 200], metavar="N")
    parser.add_argument("--pretrain-keys", nargs="*", default=[], metavar="KEY VALUE")
    parser.add_argument("--detection-keys", nargs="*", default=[], metavar="KEY VALUE")
    parser.add_argument("--record", metavar="NAME", help="also write results/NAME.json")
    args = parser.parse_args()
    if args.record is not None:
        record_file = record_path(str(results_folder()), args.record)
    python = [sys.executable, "-W", "ignore"]
    experiment = GainExperiment(
        output=args.output,
        dataset_command=[*python, str(ROOT / "tools" / "make_shapes_dataset.py")],
        pretrain_command=[*python, str(ROOT / "tools" / "pretrain.py")],
        train_command=[*python, str(ROOT / "tools" / "train_net.py")],
        pretrain_config=str(PRETRAIN_CONFIG),
        detection_config=str(DETECTION_CONFIG),
        pretrain_keys=args.pretrain_keys,
        detection_keys=["SOLVER.MAX_ITER", str(args.iterations), *args.detection_keys],
        seeds=args.seeds,
        pictures=tuple(args.pictures),
    )
    run_steps(experiment.steps(), report=lambda line: print(line, flush=True))
    command = tool_command("pretrain_gain", sys.argv[1:])
    record = make_record(command, gain_rows(experiment), seeds=args.seeds)
    print(rows_table(record))
    files = [str(Path(args.output) / "record.json")]
    for path in [*files, record_file] if args.record is not None else files:
        with writing(path):
            write_json(record, path)


if __name__ == "__main__":
    sys.exit(main())
