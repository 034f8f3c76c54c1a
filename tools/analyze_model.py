#!/usr/bin/env python3
"""Count a detector's parameters, multiply-adds and activation memory and time it; or count the
paper's tables (--tables) or the whole family (--family)."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from lambda_det.analysis.detector import analyze_config, report
from lambda_det.analysis.family import architecture_table, count_family
from lambda_det.analysis.paper_tables import compare_with_paper, comparison_text
from lambda_det.analysis.published import load_published
from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.project import ROOT, tool_command
from lambda_det.records import make_record, write_json

PUBLISHED = ROOT / "configs" / "published"


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="C.yaml", help="a detector to analyse")
    what.add_argument("--tables", action="store_true", help="the paper's tables beside ours")
    what.add_argument("--family", action="store_true", help="every depth and variant")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of the image")
    parser.add_argument("--output", metavar="O.json", help="write a record of the numbers")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    args = parser.parse_args()
    if not args.config_file and (args.size or args.opts):
        raise InputError("--size and KEY VALUE pairs belong to --config-file")
    if args.output and Path(args.output).is_dir():
        raise InputError(f"--output {args.output}: is a folder, expected the name of a file")
    if args.config_file:
        for name in ("fvcore", "lambda_det.backbone"):  # counting needs no weights
            logging.getLogger(name).setLevel(logging.ERROR)
        cfg = load_config(args.config_file, args.opts)
        row = analyze_config(cfg, tuple(args.size) if args.size else None)
        rows = [{"config": args.config_file, "changes": args.opts, **row}]
        print(report(row))
    elif args.tables:
        tables = load_published(PUBLISHED)
        rows = compare_with_paper(tables)
        print(comparison_text(rows, tables))
    else:
        rows = count_family(load_published(PUBLISHED), progress=_say)
        print(architecture_table(make_record(_command(), rows)))
    if args.output:
        try:
            write_json(make_record(_command(), rows), args.output)
        except OSError as error:
            raise InputError(
                f"--output {args.output}: cannot be written ({error.strerror or error})"
            ) from error


def _say(name: str) -> None:
    print(name, file=sys.stderr)


def _command() -> str:
    return tool_command("analyze_model", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
