"""Plot what a network's lambda layers compute for an image: position embeddings, key weights,
content lambdas, the position lambda of a query, and the effective receptive field.

visualize_lambdas.py --config-file C.yaml --weights W.pth --image photo.jpg --output DIR \\
    [--query Y X] [--layers res4.5 ...] [--beside resnet R.pth] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import logging
import sys

from lambda_det.commands import add_model_arguments, overrides_of, split_overrides
from lambda_det.configs import load_config
from lambda_det.engine.setup import import_modules
from lambda_det.errors import InputError, exit_on_input_error


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    usage, _, form = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=usage, epilog=form, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add("--image", required=True, metavar="FILE", help="the image")
    add("--output", required=True, metavar="DIR", help="folder of the plots")
    add("--query", nargs=2, type=float, metavar=("Y", "X"),
        help="pixel of the image (its middle)")  # fmt: skip
    add("--layers", nargs="+", metavar="NAME",
        help="blocks such as res4.5, counted from 0 (the last of each stage)")  # fmt: skip
    add(
        "--feature",
        metavar="STAGE",
        help="feature of the receptive field (stage of the first layer)",
    )
    add("--channels", type=int, default=16, metavar="N",
        help="number of its channels that gradients are computed of (16)")  # fmt: skip
    add("--beside", nargs=2, action="append", default=[], metavar=("VARIANT", "FILE"),
        help="receptive field of another variant (resnet, se) with its weights")  # fmt: skip
    arguments = parser.parse_args(argv)
    arguments.layers, arguments.opts = split_overrides(arguments.layers or [], arguments.opts)
    return arguments


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    from studies.views.lambda_figures import FIGURE_FILE, draw_lambdas
    from studies.views.loading import load_networks, read_for

    import_modules(args.modules)
    networks = load_networks(load_config(args.config_file, overrides_of(args)), args.beside)
    if args.channels < 1:
        raise InputError(f"--channels {args.channels}: at least 1 is needed")
    image, background, query = read_for(networks, args.image, args.query)
    numbers = draw_lambdas(
        networks.backbones,
        image,
        background,
        args.output,
        query=query,
        layers=args.layers,
        feature=args.feature,
        channels=args.channels,
    )
    field = numbers["receptive_field"]
    for name, radii in field["networks"].items():
        radius = radii["half_radius_px"]
        print(f"{name}: half of the gradient of {field['feature']} is within {radius:.1f} pixels")
    print(f"{args.output}/{FIGURE_FILE}")
    return 0
