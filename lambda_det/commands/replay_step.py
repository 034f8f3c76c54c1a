"""Repeat a training step whose loss or gradient was not finite, and find where that begins."""

from __future__ import annotations

from argparse import REMAINDER

from tabulate import tabulate

from lambda_det.commands import command_parser
from lambda_det.engine.bad_step import replay
from lambda_det.errors import exit_on_input_error

SHOWN = 10


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = command_parser(__name__, __doc__)
    parser.add_argument("folder", help="folder bad_step_… in the OUTPUT_DIR of the training")
    parser.add_argument(
        "--float32", action="store_true", help="compute in float32, without the training's autocast"
    )
    parser.add_argument(
        "opts", nargs=REMAINDER, metavar="KEY VALUE", help="config keys to override"
    )
    args = parser.parse_args(argv)
    found, now, then = replay(args.folder, float32=args.float32, overrides=args.opts)
    rows = [(name, then.get(name), now.get(name)) for name in then | now]
    print(tabulate(rows, headers=("loss", "then", "now"), tablefmt="rounded_outline"))
    if found:
        print("modules whose input is finite and whose output is not, in the order they ran:")
        print(tabulate(found[:SHOWN], headers="keys", tablefmt="rounded_outline"))
    else:
        print("the outputs of all modules are finite")
    return 0
