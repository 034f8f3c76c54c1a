"""Convert weights of timm, torchvision, detectron2 or d-li14 to the backbone's names."""

from __future__ import annotations

from lambda_det.checkpoint.conversion import SOURCES, convert_file
from lambda_det.checkpoint.rules import check_share
from lambda_det.checkpoint.translation import TranslatedWeights
from lambda_det.commands import add_import, command_parser
from lambda_det.configs import load_config
from lambda_det.data.norm_statistics import DEFAULT_COUNT, unfold_on_folder
from lambda_det.engine.setup import import_modules
from lambda_det.errors import InputError, exit_on_input_error


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    """Parse the command line, convert, print what was and was not converted."""
    parser = command_parser(__name__, __doc__)
    parser.add_argument("input", metavar="IN", help=".pth, .safetensors or .pkl")
    parser.add_argument("output", metavar="OUT", help=".pth or .safetensors")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys to override; needs --config-file"
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        help="source that IN must come from (any)",
    )
    parser.add_argument(
        "--network", metavar="NAME",
        help="which of several networks in IN, such as teacher or encoder_q (IN#NAME is the same)",
    )  # fmt: skip
    parser.add_argument(
        "--min-coverage", type=float, metavar="SHARE",
        help="share of the backbone's parameters that IN must contain, 0 to 1 (1)",
    )  # fmt: skip
    parser.add_argument(
        "--scope", type=int, help="odd side to which windows of positions are padded with zeros"
    )
    parser.add_argument(
        "--config-file", default="", metavar="YAML",
        help="fit the weights to the backbone of this config, by its PARTIAL_INIT keys",
    )  # fmt: skip
    parser.add_argument(
        "--measure-on", metavar="FOLDER",
        help="if BatchNorm was folded into the convolutions of IN: unfold it, with the statistics "
        "of images from this folder and those below it, of the config's format and test size",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, metavar="N", default=DEFAULT_COUNT,
        help=f"number of images to measure on ({DEFAULT_COUNT})",
    )  # fmt: skip
    arguments = add_import(parser).parse_args(argv)
    import_modules(arguments.modules)
    if arguments.min_coverage is not None:
        check_share("--min-coverage", arguments.min_coverage)
    if arguments.opts and not arguments.config_file:
        raise InputError(f"{' '.join(arguments.opts)}: KEY VALUE pairs need --config-file")
    if arguments.scope is not None and (arguments.scope < 1 or arguments.scope % 2 == 0):
        raise InputError(f"--scope {arguments.scope}: expected an odd positive integer")
    if arguments.images < 1:
        raise InputError(f"--images {arguments.images}: expected a positive number")
    cfg = load_config(arguments.config_file, arguments.opts) if arguments.config_file else None

    def measured(weights: TranslatedWeights) -> TranslatedWeights:
        weights, text = unfold_on_folder(
            weights, arguments.measure_on, count=arguments.images, cfg=cfg
        )
        print(text)
        return weights

    conversion = convert_file(
        arguments.input,
        arguments.output,
        source=arguments.source,
        scope=arguments.scope,
        cfg=cfg,
        min_coverage=arguments.min_coverage,
        network=arguments.network,
        change=None if arguments.measure_on is None else measured,
    )
    print(conversion.summary())
    print(f"{arguments.output}: {len(conversion.tensors)} tensors written")
    return 0
