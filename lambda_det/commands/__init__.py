"""The command lines: a module each, whose ``main(argv)`` is what ``lambda_det NAME`` and
``python tools/NAME.py`` call.

The first paragraph of a module's docstring is its line in ``lambda_det --help``, and what follows
it ends the help of the command.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter


def command_parser(
    module: str, text: str | None, parser: ArgumentParser | None = None
) -> ArgumentParser:
    """A parser that names the command and describes it.

    Args:
        module: ``__name__`` of the command's module.
        text: its docstring.
        parser: to be changed; None = a new one.
    """
    parser = ArgumentParser() if parser is None else parser
    parser.prog = f"lambda_det {module.rpartition('.')[2]}"
    parser.description, _, parser.epilog = (text or "").partition("\n\n")
    parser.formatter_class = RawDescriptionHelpFormatter
    return parser


def add_model_arguments(parser: ArgumentParser, *, required: bool = True) -> None:
    """``--config-file C --weights W KEY VALUE …`` of a command that needs a model."""
    parser.add_argument(
        "--config-file", required=required, metavar="C", help="YAML file or name of a config"
    )
    parser.add_argument("--weights", metavar="W", help="the same as MODEL.WEIGHTS W")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")


def overrides_of(args: Namespace) -> list[str]:
    """The ``KEY VALUE`` words, and ``--weights`` as the last pair of them."""
    return args.opts + ([] if args.weights is None else ["MODEL.WEIGHTS", args.weights])
