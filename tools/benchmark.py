#!/usr/bin/env python3
"""Speed and memory side by side with alternatives.

    python tools/benchmark.py layers [--device cuda --dtype bfloat16] [--output O.json]

times every back end of the position lambda, the forms of other implementations, whole layers, the
3x3 convolution and squeeze-and-excitation at the feature maps of a detector.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import torch

from lambda_det.analysis.layer_benchmark import Protocol, benchmark_layers
from lambda_det.analysis.layer_forms import STAGES, shapes_of_image
from lambda_det.analysis.layer_report import plot, text_tables
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.evaluation.metrics import check_writable
from lambda_det.records import make_record, write_json

DTYPES = ("float32", "bfloat16", "float16", "float64")


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    layers = commands.add_parser("layers", help="lambda layers and what stands in their place")
    layers.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    layers.add_argument("--dtype", default="float32", choices=DTYPES, help="(float32)")
    layers.add_argument(
        "--image", nargs=2, type=int, default=(800, 1344), metavar=("H", "W"), help="(800 1344)"
    )
    layers.add_argument(
        "--stages", nargs="+", default=["res3", "res4", "res5"], choices=STAGES, metavar="STAGE"
    )
    layers.add_argument("--batch", nargs="+", type=int, default=[1, 2], help="(1 2)")
    layers.add_argument("--forms", nargs="+", default=[], metavar="NAME", help="only these")
    layers.add_argument("--rounds", type=int, default=3, help="the best counts (3)")
    layers.add_argument("--repetitions", type=int, default=9, help="in a round (9)")
    layers.add_argument("--threads", type=int, help="of PyTorch")
    layers.add_argument("--seed", type=int, default=0, help="(0)")
    layers.add_argument("--quick", action="store_true", help="a small image, few repetitions")
    layers.add_argument("--output", metavar="O.json", help="record to write")
    layers.add_argument("--plot", metavar="P.png", help="picture to write")
    args = parser.parse_args(argv)
    _check(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.quick:
        args.image, args.stages, args.batch = (64, 96), ["res4"], [1]
        args.rounds, args.repetitions = 1, 2
    protocol = Protocol(
        device=args.device,
        dtype=getattr(torch, args.dtype),
        rounds=args.rounds,
        repetitions=args.repetitions,
        forms=tuple(args.forms),
        seed=args.seed,
    )
    shapes = shapes_of_image(*args.image, args.stages, args.batch)
    rows = benchmark_layers(shapes, protocol, progress=lambda line: print(line, file=sys.stderr))
    if not rows:
        raise InputError(f"--forms {' '.join(args.forms)}: none of these is there")
    for row in rows:
        row["threads"] = torch.get_num_threads()
    print(text_tables(rows))
    if args.output:
        arguments = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "tools/benchmark.py", *arguments])
        write_json(make_record(command, rows, seeds=[args.seed]), args.output)
    if args.plot:
        plot(rows, args.plot)
    return 0


def _check(args: argparse.Namespace) -> None:
    for path in filter(None, (args.output, args.plot)):
        check_writable(path)
    for name in ("rounds", "repetitions"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected 1 or more")
    for name in ("image", "batch"):
        if min(getattr(args, name)) < 1:
            raise InputError(
                f"--{name} {' '.join(map(str, getattr(args, name)))}: expected 1 or more"
            )
    if args.threads is not None and args.threads < 1:
        raise InputError(f"--threads {args.threads}: expected 1 or more")
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise InputError(f"--device {args.device}: expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device}: expected cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: PyTorch sees no GPU; expected cpu")


if __name__ == "__main__":
    sys.exit(main())
