#!/usr/bin/env python3
"""Export a backbone or a detector as TorchScript, torch.export or ONNX, and compare the file's
outputs with the network's at two sizes; a file that differs is not written (status 1)."""

from __future__ import annotations

import argparse

from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.export import export_config
from lambda_det.export.exporting import TOLERANCE
from lambda_det.export.formats import FORMATS


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="C.yaml", help="of a detector")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--what", choices=("backbone", "detector"), default="backbone")
    parser.add_argument("--method", default="trace", help=argparse.SUPPRESS)  # of older versions
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="of the image, multiples of 32"
    )
    parser.add_argument("--weights", metavar="W", help="the same as MODEL.WEIGHTS W")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    args = parser.parse_args(argv)
    if args.method != "trace":
        raise InputError(
            f"--method {args.method}: a network is traced, without this flag; PyTorch has "
            "deprecated scripting. Other than a trace there are --format torch_export and onnx"
        )
    cfg = load_config(args.config_file, args.opts)
    if args.weights is not None:
        cfg.MODEL.WEIGHTS = args.weights
    if not cfg.MODEL.WEIGHTS:
        print("MODEL.WEIGHTS is empty: the exported weights are random")
    result = export_config(
        cfg,
        args.output,
        format=args.format,
        what=args.what,
        size=tuple(args.size) if args.size else None,
    )
    if result.threshold_lowered:
        print("nothing is detected in the test images: first compared with SCORE_THRESH_TEST 0")
    for difference in result.differences:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in difference.shapes.items())
        print(f"{difference.where}: largest difference {difference.largest:.2g} in {shapes}")
    if not result.written:
        print(f"not written: {result.largest:.2g} is above {TOLERANCE:.0e}")
        return 1
    print(f"{args.output}: largest difference {result.largest:.2g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
