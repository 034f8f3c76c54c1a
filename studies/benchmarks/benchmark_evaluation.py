"""Measure the time of pycocotools and faster-coco-eval on generated results of COCO's size."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from lambda_det.errors import exit_on_input_error
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record, tool_command
from studies.benchmarks.counting_benchmark import benchmark_counting


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000, help="number of images (5000)")
    parser.add_argument(
        "--detections", type=int, default=100, help="detections of each image (100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated data (0)")
    parser.add_argument("--output", metavar="JSON", help="write a record of the numbers")
    args = parser.parse_args(argv)
    if args.output is not None:
        check_writable(args.output)
    rows = benchmark_counting(args.images, args.detections, seed=args.seed)
    print(tabulate(rows, headers="keys", tablefmt="rounded_outline"))
    if args.output is not None:
        arguments = f"--images {args.images} --detections {args.detections} --seed {args.seed}"
        command = tool_command("benchmark_evaluation", arguments.split())
        record = make_record(command, rows, seeds=[args.seed], packages=["faster-coco-eval"])
        write_json(record, args.output)
    return 0
