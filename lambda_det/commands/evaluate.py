"""Compute COCO's AP and AR of a config with weights, or of saved predictions.

lambda_det evaluate --config-file C.yaml --weights W.pth [--zeroed res4,res5] [--output O.json]
                    [KEY VALUE ...]
lambda_det evaluate --annotations A.json --predictions P.json [--max-detections N] [--output O.json]
"""

from __future__ import annotations

import argparse
import logging
import sys

from lambda_det.commands import add_model_arguments, command_parser, overrides_of
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation import evaluate_files, metrics_table
from lambda_det.evaluation.counting import BACKENDS
from lambda_det.evaluation.metrics import metrics_record, per_class_table
from lambda_det.io import check_writable, write_json


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. ``config_file`` is None in the form with saved predictions."""
    parser = command_parser(__name__, __doc__)
    add_model_arguments(parser, required=False)
    parser.add_argument("--annotations", metavar="JSON", help="COCO instances json")
    parser.add_argument("--predictions", metavar="JSON", help="coco_instances_results.json")
    parser.add_argument("--output", metavar="JSON", help="file for the metrics, in percent")
    parser.add_argument(
        "--per-class", action="store_true", help="also print and write the metrics of each class"
    )
    parser.add_argument(
        "--backend",
        default="auto",
        help=f"implementation: {', '.join(BACKENDS)} (auto: the last one that is installed)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="detections of a class in an image that count for AP (default: COCO's 100, which "
        "count at least; -1: all); with --config-file TEST.DETECTIONS_PER_IMAGE says it",
    )
    parser.add_argument(
        "--zeroed",
        metavar="STAGES",
        help="zero the residual branches of these stages (res4,res5): if the AP stays the same, "
        "they are idle",
    )
    args = parser.parse_args(argv)
    if args.config_file is not None:
        if args.annotations or args.predictions or args.backend != "auto":
            raise InputError(
                "--config-file takes its data from the config: --annotations, --predictions and "
                "--backend cannot be combined with it"
            )
        if args.max_detections is not None:
            raise InputError(
                f"--max-detections {args.max_detections} is for --predictions; with --config-file, "
                "TEST.DETECTIONS_PER_IMAGE says how many detections of an image count"
            )
    elif not (args.annotations and args.predictions):
        raise InputError("--config-file, or --annotations and --predictions, is needed")
    elif args.zeroed is not None:
        raise InputError(f"--zeroed {args.zeroed} needs a model, and so --config-file")
    elif args.weights is not None:
        raise InputError(f"--weights {args.weights} needs a model, and so --config-file")
    elif args.opts:
        raise InputError(f"{args.opts[0]!r}: KEY VALUE pairs need --config-file")
    return args


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.output is not None:
        check_writable(args.output)
    if args.config_file is not None:
        from lambda_det.engine import evaluate_config

        stages = () if args.zeroed is None else tuple(args.zeroed.split(","))
        results = evaluate_config(
            args.config_file, overrides_of(args), zeroed_stages=stages, modules=args.modules
        )
    else:
        logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
        logging.getLogger("lambda_det").setLevel(logging.INFO)
        metrics = evaluate_files(
            args.annotations,
            args.predictions,
            backend=args.backend,
            max_detections=args.max_detections,
        )
        results = {"": metrics}
    try:
        if args.output is not None:
            record = {n: metrics_record(m, per_class=args.per_class) for n, m in results.items()}
            with writing(args.output):
                write_json(next(iter(record.values())) if len(record) == 1 else record, args.output)
    finally:  # the table is printed even if the disk is full
        print_tables(results, args)
    return 0


def print_tables(results: dict[str, dict], args: argparse.Namespace) -> None:
    for name, metrics in results.items():
        print(f"{name or args.predictions} (percent):")
        print(metrics_table(metrics))
        print(metrics_table(metrics, "AR"))
        if args.per_class:
            print(per_class_table(metrics))
