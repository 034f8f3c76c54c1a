"""Predict on images and videos: draw boxes, masks, keypoints and scores, and write COCO results.

lambda_det predict --config-file C.yaml --weights W.pth --input photo.jpg 'frames/*.png' folder \\
    film.mp4 --output DIR [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict

from lambda_det.commands import (
    add_model_arguments,
    command_parser,
    overrides_of,
    split_overrides,
)
from lambda_det.configs import load_config
from lambda_det.engine.checks import check_device
from lambda_det.engine.setup import import_modules
from lambda_det.engine.values import check_values
from lambda_det.errors import exit_on_input_error


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; KEY VALUE pairs after ``--input`` go to ``opts``."""
    parser = command_parser(__name__, __doc__)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--input", required=True, nargs="+", metavar="FILE",
        help="images, videos, folders and globs in quotes")  # fmt: skip
    add("--output", required=True, metavar="DIR", help="folder to write into")
    add("--score-threshold", type=float, default=0.5, metavar="S",
        help="lowest score that is drawn and written (0.5); use 0 to evaluate")  # fmt: skip
    add("--batch", type=int, default=8, metavar="N", help="number of images in a batch (8)")
    add("--device", metavar="D", help="the same as MODEL.DEVICE D: cpu, cuda, cuda:1, ...")
    add("--recursive", action="store_true", help="search the sub-folders of folders as well")
    add("--classes", metavar="FILE", help="class names: a text file with one per line, or json")
    add("--annotations", metavar="JSON", help="COCO json with the images' ids and the classes")
    add("--no-pictures", action="store_true", help="write the json files only")
    add("--json", action="store_true", help="print the result as json")
    arguments = parser.parse_args(argv)
    arguments.input, arguments.opts = split_overrides(arguments.input, arguments.opts)
    return arguments


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lambda_det").setLevel(logging.INFO)
    from lambda_det.predict import predict_files

    device = [] if args.device is None else ["MODEL.DEVICE", args.device]
    import_modules(args.modules)
    cfg = load_config(args.config_file, overrides_of(args) + device)
    check_values(cfg)
    check_device(cfg.MODEL.DEVICE)
    done = predict_files(
        cfg,
        args.input,
        args.output,
        score_threshold=args.score_threshold,
        batch_size=args.batch,
        draw=not args.no_pictures,
        recursive=args.recursive,
        classes=args.classes,
        annotations=args.annotations,
    )
    if args.json:
        print(json.dumps({"output": args.output, **asdict(done)}))
    else:
        parts = [f"{len(done.images)} images", f"{len(done.videos)} videos"]
        failed = f"; {len(done.failed)} failed" if done.failed else ""
        print(f"{args.output}: {', '.join(parts)}, {done.num_objects} objects{failed}")
    return 2 if done.failed else 0
