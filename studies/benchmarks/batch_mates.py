"""Measure how much an image's features and detections depend on the other images of its batch,
without and with MODEL.LAMBDA_RESNET.MASK_PADDING."""

from __future__ import annotations

import argparse
import sys

from tabulate import tabulate

from lambda_det.configs import load_config
from lambda_det.engine.checks import check_device
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record, tool_command
from studies.benchmarks.neighbours import measure_batch_mates, read_images


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="C", help="config of a detector")
    parser.add_argument("--coco", required=True, metavar="DIR", help="folder in COCO layout")
    parser.add_argument("--split", default="val2017", help="split of the folder (val2017)")
    parser.add_argument(
        "--images", type=int, default=4, metavar="N", help="number of images, the first by name (4)"
    )
    parser.add_argument(
        "--longest-side",
        type=int,
        default=256,
        help="the images are resized to this length, in pixels (256)",
    )
    parser.add_argument(
        "--canvas", nargs=2, type=int, default=(512, 512), metavar=("H", "W"),
        help="size in pixels of the larger image beside them (512 512)",
    )  # fmt: skip
    parser.add_argument(
        "--variants", nargs="+", default=[], metavar="V", help="variants to measure (the config's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (0)")
    parser.add_argument("--output", metavar="O.json", help="write a record of the numbers")
    parser.add_argument(
        "opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to override"
    )
    args = parser.parse_intermixed_args(argv)
    if args.output:
        check_writable(args.output)
    if min(*args.canvas, args.longest_side) < 1:
        raise InputError("--canvas, --longest-side: expected 1 or more")
    variants = args.variants or [
        load_config(args.config_file, args.opts).MODEL.LAMBDA_RESNET.VARIANT
    ]
    rows, images = [], None
    for variant in variants:
        cfg = load_config(args.config_file, [*args.opts, "MODEL.LAMBDA_RESNET.VARIANT", variant])
        check_device(cfg.MODEL.DEVICE)
        if images is None:
            images = read_images(
                args.coco, args.split, args.images, args.longest_side, cfg.INPUT.FORMAT
            )
        rows += measure_batch_mates(cfg, images, tuple(args.canvas), seed=args.seed)
        print(tabulate(rows[-2:], headers="keys", tablefmt="rounded_outline", floatfmt=".1e"))
    if args.output:
        arguments = sys.argv[1:] if argv is None else argv
        command = tool_command("batch_mates", arguments)
        write_json(make_record(command, rows, seeds=[args.seed]), args.output)
    return 0
