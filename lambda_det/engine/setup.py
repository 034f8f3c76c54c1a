"""From command-line arguments to a checked, frozen config, and the log of a run."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from lambda_det.configs import find_config, load_config
from lambda_det.data.registering.config_datasets import configure_heads
from lambda_det.engine.run import make_output_dir
from lambda_det.engine.yacs import prepare
from lambda_det.errors import InputError, key, reason_of, writing
from lambda_det.io import write_bytes


def import_modules(names: Sequence[str]) -> None:
    """Import a user's modules, which register datasets or parts of a model with detectron2.

    The current folder is searched first, as by ``python script.py``.

    Raises:
        InputError: a module does not exist, or an error occurs in it.
    """
    if names and (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    for name in names:
        try:
            importlib.import_module(name)
        except InputError:
            raise
        except Exception as error:  # the module runs any code
            kind = type(error).__name__
            raise InputError(
                f"--import {name}: cannot be imported ({kind}: {reason_of(error)})"
            ) from error


def import_words(names: Sequence[str]) -> list[str]:
    """Return the arguments of a command that import these modules."""
    return [word for name in names for word in ("--import", name)]


def model_config(
    config_file: str,
    overrides: Sequence[str] = (),
    *,
    modules: Sequence[str] = (),
    from_weights: bool = True,
) -> CfgNode:
    """Return the config of a command that needs the model of a training, but not its data.

    Classes and keypoints are set by
    :func:`~lambda_det.data.registering.config_datasets.configure_heads`.

    Args:
        config_file: path or name of the YAML file that the model was trained with.
        overrides: KEY VALUE pairs.
        modules: modules to import first.
        from_weights: whether the numbers of classes and keypoints are those of the weights.

    Raises:
        InputError: a module, a file or a key is wrong.
    """
    import_modules(modules)
    cfg = load_config(config_file, overrides)
    configure_heads(cfg, from_weights=from_weights)
    return cfg


def setup_config(args: Namespace) -> CfgNode:
    """Return the config of a run, checked and frozen; set up its log and its folder.

    Args:
        args: of detectron2's ``default_argument_parser``, ``modules`` to import, and ``dry_run``,
            which takes the largest size of the training images and writes nothing.

    Raises:
        InputError: a module, file, key or value is wrong; the message names it.
    """
    setup_logger(distributed_rank=comm.get_rank())
    import_modules(getattr(args, "modules", ()))
    args = Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg = load_config(args.config_file, args.opts)
    prepare(cfg, for_training=not args.eval_only)
    is_dry = getattr(args, "dry_run", False)
    if is_dry:
        cfg.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.freeze()
    if not is_dry:
        start_run(cfg, args, cfg.OUTPUT_DIR)
    return cfg


def start_run(cfg: object, args: Namespace, folder: str) -> None:
    """Make the output folder, and write the config and the log into it.

    An evaluation leaves the ``config.yaml`` of the training whose folder it is, because a later
    ``--resume`` reads it.

    Args:
        cfg: the config, of yacs or a LazyConfig.
        args: of the command line, to be logged.
        folder: OUTPUT_DIR.

    Raises:
        InputError: the folder is a file or cannot be written.
    """
    make_output_dir(folder)
    logger = logging.getLogger("detectron2")
    before = _screens(logger)
    for handler in before:  # default_setup adds another one
        logger.removeHandler(handler)
    try:
        with (
            writing(f"{key('OUTPUT_DIR')}={folder!r}"),
            _kept(folder if getattr(args, "eval_only", False) else None),
        ):
            default_setup(cfg, args)
    finally:
        if not _screens(logger):  # it does so once for a folder
            logger.handlers += before


def _screens(logger: logging.Logger) -> list[logging.Handler]:
    return [h for h in logger.handlers if getattr(h, "stream", None) is sys.stdout]


def log_model(model: nn.Module) -> None:
    """Write the model, of which every layer is a line, to the log file and not to the screen."""
    logger = logging.getLogger("detectron2")
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, "Model:\n%s", (model,), None)
    for handler in set(logger.handlers) - set(_screens(logger)):
        handler.handle(record)


@contextlib.contextmanager
def _kept(folder: str | None) -> Iterator[None]:
    """Restore the folder's ``config.yaml`` after the block if there was one before it."""
    path = os.path.join(folder, "config.yaml") if folder and comm.is_main_process() else ""
    if not os.path.isfile(path):
        yield
        return
    with open(path, "rb") as file:
        before = file.read()
    try:
        yield
    finally:
        write_bytes(before, path)
