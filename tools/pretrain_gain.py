#!/usr/bin/env python3
"""Pretrain a backbone on generated pictures; train detectors from it and from random weights.

Run again with the same --output, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lambda_det.errors import exit_on_input_error, writing
from lambda_det.experiments.pretrain_gain import GainExperiment, gain_rows, run_steps
from lambda_det.project import ROOT, results_folder, tool_command
from lambda_det.records import make_record, record_path, rows_table, write_json

PRETRAIN_CONFIG = ROOT / "configs" / "pretrain" / "lambda_R_50_shapes_cpu.yaml"
DETECTION_CONFIG = ROOT / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


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
