"""Measure speed and memory of lambda layers and backbones, side by side with alternatives.

    python tools/benchmark.py layers [--device cuda --dtype bfloat16] [--output O.json]

measures every back end of the position lambda, the formulations of other implementations, whole
layers, the 3x3 convolution and squeeze-and-excitation, on the feature map sizes of a detector.
With --rivals it measures the layers of LAYER.KIND as wholes instead.

    python tools/benchmark.py backbones [--depth 101 152] [--size H W] [--output O.json]

measures training step and inference of whole backbones with FPN: R, SE, λ, and λ with its lambda
layers in the formulations of other implementations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

from lambda_det.backbone.architectures import BLOCKS_PER_STAGE
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record, tool_command
from studies.benchmarks import backbone_report, layer_report
from studies.benchmarks.backbone_benchmark import Protocol as BackboneProtocol
from studies.benchmarks.backbone_benchmark import benchmark_backbones
from studies.benchmarks.backbone_forms import BY_DEFAULT, MODELS
from studies.benchmarks.layer_benchmark import Protocol, benchmark_layers
from studies.benchmarks.layer_forms import STAGES, shapes_of_image
from studies.benchmarks.rival_layers import rival_candidates, rival_layers_table

DTYPES = ("float32", "bfloat16", "float16", "float64")


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    _add_layers(commands)
    _add_backbones(commands)
    arguments = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(arguments)
    _check(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    measure, report = {
        "layers": (_layers, layer_report),
        "backbones": (_backbones, backbone_report),
    }[args.command]
    rows = measure(args, lambda line: print(line, file=sys.stderr, flush=True))
    for row in rows:
        row["threads"] = torch.get_num_threads()
    command = tool_command("benchmark", arguments)
    if getattr(args, "rivals", False):
        print(rival_layers_table(make_record(command, rows)))
    else:
        print(report.text_tables(rows))
    if args.output:
        write_json(make_record(command, rows, seeds=[args.seed]), args.output)
    if args.plot:
        report.plot(rows, args.plot)
    return 0


def _add_layers(commands) -> None:
    layers = commands.add_parser("layers", help="lambda layers, and the layers that they replace")
    layers.add_argument(
        "--image", nargs=2, type=int, default=(800, 1344), metavar=("H", "W"), help="(800 1344)"
    )
    layers.add_argument(
        "--stages", nargs="+", default=["res3", "res4", "res5"], choices=STAGES, metavar="STAGE"
    )
    layers.add_argument("--batch", nargs="+", type=int, default=[1, 2], help="(1 2)")
    layers.add_argument(
        "--forms", nargs="+", default=[], metavar="NAME", help="measure only these forms (all)"
    )
    layers.add_argument(
        "--rivals", action="store_true", help="measure the layers of every LAYER.KIND instead"
    )
    layers.add_argument(
        "--rounds", type=int, default=3, help="rounds, the best of which counts (3)"
    )
    layers.add_argument("--repetitions", type=int, default=9, help="measurements in a round (9)")
    _add_common(layers)


def _add_backbones(commands) -> None:
    backbones = commands.add_parser("backbones", help="whole backbones with FPN")
    backbones.add_argument(
        "--depth", nargs="+", type=int, default=[101], choices=BLOCKS_PER_STAGE, help="(101)"
    )
    backbones.add_argument(
        "--size", nargs=2, type=int, default=(800, 1344), metavar=("H", "W"),
        help="size of the images, multiples of 32 (800 1344)",
    )  # fmt: skip
    backbones.add_argument("--batch", type=int, default=1, help="images in a batch (1)")
    backbones.add_argument(
        "--models", nargs="+", default=list(BY_DEFAULT), choices=MODELS,
        metavar="MODEL", help=f"among {', '.join(MODELS)} (all but those of a named back end)",
    )  # fmt: skip
    backbones.add_argument(
        "--repetitions",
        type=int,
        default=9,
        help="number of turns; a slow model takes part in every third (9)",
    )
    backbones.add_argument(
        "--channels-last", action="store_true", help="memory layout of images and weights"
    )
    _add_common(backbones)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    command.add_argument(
        "--dtype", default="float32", choices=DTYPES,
        help="a half type means autocast around modules (float32)",
    )  # fmt: skip
    command.add_argument("--threads", type=int, help="number of PyTorch's threads")
    command.add_argument("--seed", type=int, default=0, help="random seed (0)")
    command.add_argument(
        "--quick", action="store_true", help="use a small image and few repetitions"
    )
    command.add_argument("--output", metavar="O.json", help="write a record of the numbers")
    command.add_argument("--plot", metavar="P.png", help="write a plot")


def _layers(args: argparse.Namespace, progress: Callable[[str], None]) -> list[dict]:
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
        make=rival_candidates if args.rivals else None,
    )
    shapes = shapes_of_image(*args.image, args.stages, args.batch)
    rows = benchmark_layers(shapes, protocol, progress)
    if not rows:
        raise InputError(f"--forms {' '.join(args.forms)}: none of these forms is available")
    return rows


def _backbones(args: argparse.Namespace, progress: Callable[[str], None]) -> list[dict]:
    if args.quick:
        args.size, args.batch, args.repetitions = (64, 96), 1, 2
    if any(side % 32 for side in args.size):
        raise InputError(f"--size {_words(args.size)}: expected multiples of 32, for the FPN")
    protocol = BackboneProtocol(
        size=tuple(args.size),
        batch=args.batch,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        channels_last=args.channels_last,
        repetitions=args.repetitions,
        models=tuple(args.models),
        seed=args.seed,
    )
    return benchmark_backbones(args.depth, protocol, progress)


def _words(values: Sequence[int] | int) -> str:
    return " ".join(map(str, values)) if isinstance(values, Sequence) else str(values)


def _check(args: argparse.Namespace) -> None:
    for path in filter(None, (args.output, args.plot)):
        check_writable(path)
    for name in ("rounds", "repetitions", "image", "size", "batch", "threads"):
        values = getattr(args, name, None)
        if values is None:
            continue
        if min(values if isinstance(values, Sequence) else [values]) < 1:
            raise InputError(f"--{name} {_words(values)}: expected 1 or more")
    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise InputError(f"--device {args.device}: expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device}: expected cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {args.device}: PyTorch finds no GPU; expected cpu")
    if device.index is not None and device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"--device {args.device}: PyTorch finds {torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(device)  # synchronize() and the memory statistics use it
