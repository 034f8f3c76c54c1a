"""Pretrain a backbone on generated images, and train detectors from it and from random weights.

A second call with the same --output continues where the first one stopped.
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
from lambda_det.io import read_text, write_json
from lambda_det.records import make_record, record_path, results_folder, tool_command
from lambda_det.shipped_configs import ROOT
from studies.tables import rows_table

INITIALISATIONS = ("pretrained", "random")
AP_NAMES = ("AP", "AP50")

PRETRAIN_CONFIG = ROOT / "configs" / "pretrain" / "lambda_R_50_shapes_cpu.yaml"
DETECTION_CONFIG = ROOT / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


@dataclass(frozen=True)
class Step:
    """A command of the experiment.

    A step whose file ``done`` exists is skipped, so that the experiment continues where it stopped.
    The arguments that determine its numbers are stored beside this file. If they differ in a later
    call, an error is raised.

    Attributes:
        name: name of the step in messages.
        command: the command and its arguments.
        done: path of the file or folder that exists after the command has finished.
        log: path of the file for the output of the command.
        decides: arguments that determine its numbers, without paths of this checkout or folder.
    """

    name: str
    command: list[str]
    done: str
    log: str
    decides: Sequence[str] = ()

    @property
    def note(self) -> str:
        """Path of the file beside ``done`` that stores ``decides``."""
        return f"{self.done}.arguments.json"


@dataclass(frozen=True)
class GainExperiment:
    """The paths, commands and settings of the experiment.

    Attributes:
        output: folder of the experiment.
        dataset_command, pretrain_command, train_command: commands that start the tools.
        pretrain_config, detection_config: paths of the config files.
        pretrain_keys, detection_keys: KEY VALUE pairs that override them.
        seeds: seeds of the detectors; all use the same pretraining.
        num_images: number of training and of validation images for the pretraining.
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
    num_images: tuple[int, int] = (1600, 200)

    def path(self, *parts: str) -> str:
        """A path in the experiment's folder."""
        return os.path.join(self.output, *parts)

    @property
    def weights(self) -> str:
        """Path of the pretrained weights."""
        return self.path("pretrain", "model_final.pth")

    def run_folder(self, initialisation: str, seed: int) -> str:
        """OUTPUT_DIR of one detector."""
        return self.path(f"{initialisation}_seed{seed}")

    def steps(self) -> list[Step]:
        """All steps in their order."""
        train, val = map(str, self.num_images)
        coco, folder = self.path("shapes"), self.path("imagefolder")
        numbers = ["--num-train", train, "--num-val", val]
        pretraining = [*numbers, os.path.basename(self.pretrain_config), *self.pretrain_keys]
        steps = [
            Step(
                "dataset for detection",
                [*self.dataset_command, "--output", coco],
                os.path.join(coco, "shapes.json"),
                self.path("shapes.log"),
            ),
            Step(
                "dataset for pretraining",
                [*self.dataset_command, "--layout", "imagefolder", "--output", folder] + numbers,
                os.path.join(folder, "val"),
                self.path("imagefolder.log"),
                numbers,
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
        # Both initialisations of a seed follow each other, so that a change of the machine's load
        # during the experiment affects both.
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
    """Run the steps that are not done yet.

    Args:
        steps: the steps.
        report: called with a line of text for every step.

    Raises:
        InputError: a command failed or did not write its file; or a step was done with other
            arguments, in which case no step is run.
    """
    for step in steps:
        _check_note(step)
    for number, step in enumerate(steps, start=1):
        label = f"[{number}/{len(steps)}] {step.name}"
        if os.path.exists(step.done):
            report(f"{label}: is done already")
            continue
        report(f"{label} ...")
        os.makedirs(os.path.dirname(os.path.abspath(step.log)), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.remove(step.note)  # that of an output which was removed
        with open(step.log, "w", encoding="utf-8") as file:
            status = subprocess.run(step.command, stdout=file, stderr=file).returncode
        if status or not os.path.exists(step.done):
            raise InputError(f"{step.name}: ended with status {status}, see {step.log}")
        write_json(list(step.decides), step.note)


def _check_note(step: Step) -> None:
    # There is no note if the step was stopped just before writing it.
    if not (os.path.exists(step.done) and os.path.exists(step.note)):
        return
    try:
        noted = json.loads(read_text(step.note))
    except ValueError as error:
        raise InputError(f"{step.note}: is not valid JSON ({error})") from error
    if noted != list(step.decides):
        raise InputError(
            f"{step.done}: the existing {step.name} was made with {noted}, not with "
            f"{list(step.decides)}; name another --output, or remove the existing one"
        )


def backbone_coverage(experiment: GainExperiment) -> float:
    """Percentage of the detector's backbone parameters that the pretrained weights cover.

    The detector is built and loaded as in training.

    Raises:
        InputError: the weights do not fit.
    """
    cfg = load_config(experiment.detection_config, list(experiment.detection_keys))
    cfg.MODEL.DEVICE = "cpu"
    return 100 * load_weights(build_model(cfg), experiment.weights).share()


def gain_rows(experiment: GainExperiment) -> list[dict[str, object]]:
    """Make a row for each initialisation: losses and final AP, as mean and sd over the seeds.

    The losses are medians over 20 iterations, as detectron2 logs them.

    Raises:
        InputError: the files of a run are missing.
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
                # The AP is null for a detector without any detection.
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
    """Read finished iterations -> total loss from detectron2's log; later lines replace earlier."""
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
    parser.add_argument("--output", default="output/pretrain_gain", metavar="DIR", help="folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--iterations", type=int, default=200, help="iterations of each detector (200)"
    )
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
        num_images=tuple(args.pictures),
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
