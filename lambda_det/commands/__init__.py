"""The commands: one module each, whose ``main(argv)`` is called by ``lambda_det NAME`` and by
``python tools/NAME.py``.

The first paragraph of a module's docstring describes the command in ``lambda_det --help``; the rest
of the docstring ends the help of the command.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter


def command_parser(
    module: str, text: str | None, parser: ArgumentParser | None = None
) -> ArgumentParser:
    """Make a parser with the name and the description of a command.

    Args:
        module: ``__name__`` of the command's module.
        text: docstring of that module.
        parser: parser to change; None means a new one.
    """
    parser = ArgumentParser() if parser is None else parser
    parser.prog = f"lambda_det {module.rpartition('.')[2]}"
    parser.description, _, parser.epilog = (text or "").partition("\n\n")
    parser.formatter_class = RawDescriptionHelpFormatter
    return parser


def add_import(parser: ArgumentParser) -> ArgumentParser:
    """Add ``--import MODULE`` to the parser of a command that reads a config, and return it; the
    modules are ``modules`` of the arguments."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module to import first, such as one that registers a dataset; may be repeated",
    )
    return parser


def add_model_arguments(parser: ArgumentParser, *, required: bool = True) -> None:
    """Add ``--config-file C --weights W --import MODULE KEY VALUE …`` to the parser of a command
    that needs a model."""
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="C",
        help="path of a YAML file, or name of a shipped config",
    )
    parser.add_argument("--weights", metavar="W", help="the same as MODEL.WEIGHTS W")
    add_import(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")


def overrides_of(args: Namespace) -> list[str]:
    """The ``KEY VALUE`` arguments; ``--weights W`` becomes the last pair, ``MODEL.WEIGHTS W``."""
    return args.opts + ([] if args.weights is None else ["MODEL.WEIGHTS", args.weights])


def split_overrides(words: list[str], opts: list[str]) -> tuple[list[str], list[str]]:
    """Separate the arguments of an option that takes many from ``KEY VALUE`` pairs after them.

    The first part of a pair's key is a node of the config, such as ``MODEL``.

    Args:
        words: what was given to the option; the first is one of its own.
        opts: the pairs that were given elsewhere.

    Returns:
        The option's own arguments, and all pairs.
    """
    from lambda_det.config import get_cfg  # imports detectron2, which most commands need later

    for index, word in enumerate(words):
        first, dot, _ = word.partition(".")
        if index and dot and first.isupper() and not os.path.exists(word) and first in get_cfg():
            return words[:index], words[index:] + opts
    return words, opts
