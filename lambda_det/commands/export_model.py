"""Export a backbone or a detector as TorchScript, torch.export or ONNX.

The outputs of the exported network are compared with the original's at two image sizes. If they
differ, no file is written, and the exit status is 1.
"""

from __future__ import annotations

import argparse

from lambda_det.commands import add_model_arguments, command_parser, overrides_of
from lambda_det.engine.setup import model_config
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.export import export_config
from lambda_det.export.exporting import TOLERANCE
from lambda_det.export.formats import FORMATS


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export."""
    parser = command_parser(__name__, __doc__)
    add_model_arguments(parser)
    parser.add_argument("--format", required=True, choices=FORMATS, help="format of the file")
    parser.add_argument(
        "--what",
        choices=("backbone", "detector"),
        default="backbone",
        help="part to export (%(default)s)",
    )
    parser.add_argument("--method", default="trace", help=argparse.SUPPRESS)  # for old commands
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="size of the image in pixels, multiples of 32",
    )
    args = parser.parse_args(argv)
    if args.method != "trace":
        raise InputError(
            f"--method {args.method}: networks are always traced, because PyTorch has deprecated "
            "scripting; leave the flag out, or choose --format torch_export or onnx"
        )
    cfg = model_config(args.config_file, overrides_of(args), modules=args.modules)
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
        print("no object is detected in the test images: compared with SCORE_THRESH_TEST 0 first")
    for difference in result.differences:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in difference.shapes.items())
        size = f"{difference.height} x {difference.width}"
        print(f"{size}: largest difference {difference.largest:.2g} in {shapes}")
    if not result.written:
        print(f"not written: {result.largest:.2g} is above {TOLERANCE:.0e}")
        return 1
    print(f"{args.output}: largest difference {result.largest:.2g}")
    return 0
