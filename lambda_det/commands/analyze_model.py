"""Count a detector's parameters, multiply-adds and activation memory, and time it."""

from __future__ import annotations

import logging
import sys

from lambda_det.analysis.detector import analysis_report, analyze_config
from lambda_det.commands import add_import, command_parser
from lambda_det.engine.setup import model_config
from lambda_det.errors import exit_on_input_error, writing
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record, tool_command


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    parser = command_parser(__name__, __doc__)
    parser.add_argument(
        "--config-file", required=True, metavar="C.yaml", help="config of the detector to analyse"
    )
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="size of the image in pixels"
    )
    parser.add_argument("--output", metavar="O.json", help="also write the numbers to this file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = add_import(parser).parse_args(arguments)
    for name in ("fvcore", "lambda_det.backbone"):  # hide warnings: counting needs no weights
        logging.getLogger(name).setLevel(logging.ERROR)
    cfg = model_config(args.config_file, args.opts, modules=args.modules, from_weights=False)
    if args.output:  # before the work
        check_writable(args.output)
    row = analyze_config(cfg, tuple(args.size) if args.size else None)
    rows = [{"config": args.config_file, "changes": args.opts, **row}]
    print(analysis_report(row))
    if args.output:
        with writing(f"--output {args.output}"):
            write_json(make_record(tool_command("analyze_model", arguments), rows), args.output)
