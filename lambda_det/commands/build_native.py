"""Compile the kernels of the back end "native" ahead of their first use.

Without --output they go into the user's cache, where every later process finds them, also on
machines that share the folder and have no compiler. With --output lambda_det/layers/native in a
checkout, a wheel that is built from it brings them along, for this release of PyTorch and this kind
of processor; libraries of other releases there are removed. They are compiled also if they
are there already.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from lambda_det.commands import command_parser
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.layers import native_build


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write (the cache)")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        path = native_build.build(args.output, anew=True)
    except native_build.BuildError as error:
        where = "" if args.output is None else f"--output {args.output}: "
        raise InputError(f"{where}the back end 'native' was not built: {error}") from error
    if path.parent == native_build.SOURCES:  # a wheel would bring along what it never loads
        for other in {*path.parent.glob("native_*.so")} - {path}:
            other.unlink()
            print(f"removed: {other}", file=sys.stderr)
    print(path)
    return 0
