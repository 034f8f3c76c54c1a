"""From command-line arguments to a checked, frozen config."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from lambda_det.config import get_cfg
from lambda_det.configs import find_config
from lambda_det.data import configure_datasets
from lambda_det.engine.checks import check_settings
from lambda_det.engine.config_files import as_plain_yaml, check_yaml
from lambda_det.engine.config_values import check_values
from lambda_det.errors import InputError, one_line
from lambda_det.records import write_bytes

logger = logging.getLogger(__name__)

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}

# What yacs, fvcore and PyYAML raise for a file or a value that is not a config.
_MERGE_ERRORS = (
    KeyError, ValueError, TypeError, AttributeError, AssertionError, OSError, yaml.YAMLError,
)  # fmt: skip


def split_overrides(words: list[str], opts: list[str]) -> tuple[list[str], list[str]]:
    """The words of a flag that takes many, and all ``KEY VALUE`` pairs.

    Pairs that stand directly behind such a flag are told by the first node of a key.

    Args:
        words: of the flag; the first is one of its own.
        opts: the pairs that stand elsewhere.
    """
    for index, word in enumerate(words):
        first, dot, _ = word.partition(".")
        if index and dot and first.isupper() and not os.path.exists(word) and first in get_cfg():
            return words[:index], words[index:] + opts
    return words, opts


def load_config(
    config_file: str, overrides: Sequence[str] = (), *, defaults: CfgNode | None = None
) -> CfgNode:
    """The defaults, then the file, then ``KEY VALUE`` pairs.

    Args:
        config_file: path of a YAML file, name of a shipped config, or "".
        overrides: keys and values by turns.
        defaults: a config with every key, merged into; None = detectron2's and ours.

    Raises:
        InputError: the file, or one that it is based on, is missing, is no YAML or names code; or
            a key or a value's type is wrong.
    """
    cfg = get_cfg() if defaults is None else defaults
    config_file = find_config(config_file)
    if config_file:
        if not os.path.isfile(config_file):
            raise InputError(f"--config-file {config_file}: no such file")
        check_yaml(config_file, cfg)
        try:
            # detectron2's own default runs the code that a file's tags name.
            with as_plain_yaml(config_file) as plain:
                cfg.merge_from_file(plain, allow_unsafe=False)
        except _MERGE_ERRORS as error:
            raise InputError(f"--config-file {config_file}: {_reason(error)}") from error
    if len(overrides) % 2:
        raise InputError(
            f"KEY VALUE pairs: {' '.join(overrides)!r} has an odd number of words, a key or a "
            "value is missing"
        )
    try:
        cfg.merge_from_list(list(overrides))
    except _MERGE_ERRORS as error:
        raise InputError(f"KEY VALUE pairs: {_reason(error)}") from error
    return cfg


def setup_config(args: Namespace) -> CfgNode:
    """The config of a run, checked; logging and the output folder are set up too.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        InputError: a file, key or value is wrong; the line names it.
    """
    setup_console()
    args = Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg = load_config(args.config_file, args.opts)
    check_values(cfg)
    check_device(cfg)
    configure_datasets(cfg, for_training=not args.eval_only)
    start_run(cfg, args)
    if not args.eval_only:
        check_settings(cfg, args.config_file, args.opts)
    return cfg


def setup_console() -> None:
    """Show this package's log lines on the screen of the main process."""
    setup_logger(distributed_rank=comm.get_rank(), name="lambda_det", abbrev_name="lambda_det")


def start_run(cfg: CfgNode, args: Namespace, written: object = None) -> None:
    """Freeze the config, make the output folder, write the config and the log into it.

    An evaluation leaves the ``config.yaml`` of the training whose folder it is: a later
    ``--resume`` reads it.

    Args:
        cfg: the config.
        args: of the command line, to be logged.
        written: what is written in place of ``cfg``: the LazyConfig that it is a view of.

    Raises:
        InputError: ``OUTPUT_DIR`` is a file or cannot be written.
    """
    if os.path.exists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        raise InputError(f"OUTPUT_DIR={cfg.OUTPUT_DIR!r}: is a file, not a folder")
    cfg.freeze()
    try:
        with _kept(cfg.OUTPUT_DIR if getattr(args, "eval_only", False) else None):
            default_setup(cfg if written is None else written, args)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"OUTPUT_DIR={cfg.OUTPUT_DIR!r}: cannot be written ({reason})") from error
    # detectron2's log file takes our lines too; the console has its handler already.
    file_handlers: list[logging.Handler] = [
        handler
        for handler in logging.getLogger("detectron2").handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stdout
    ]
    own = logging.getLogger("lambda_det")
    own.handlers = own.handlers[:1] + file_handlers


@contextlib.contextmanager
def _kept(folder: str | None) -> Iterator[None]:
    """What the block writes to the folder's ``config.yaml`` is not kept if there was one before."""
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


def check_device(cfg: CfgNode) -> None:
    """Check MODEL.DEVICE and what depends on it; turn off AMP where it cannot be, and say so.

    Raises:
        InputError: there is no such device.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(
            f"MODEL.DEVICE={cfg.MODEL.DEVICE!r}: PyTorch has no such device; expected cpu or cuda"
        ) from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"MODEL.DEVICE={cfg.MODEL.DEVICE!r}: PyTorch sees no GPU here; add MODEL.DEVICE cpu"
        )
    if cfg.MODEL.DEVICE == "cpu" and precision(cfg) is torch.float16:
        logger.warning(
            "SOLVER.AMP.ENABLED with PRECISION float16 needs a GPU: training in float32 on the CPU "
            "instead (SOLVER.AMP.PRECISION bfloat16 works there)"
        )
        cfg.SOLVER.AMP.ENABLED = False


def precision(cfg: CfgNode) -> torch.dtype | None:
    """The type that autocast computes in; None = no autocast."""
    return PRECISIONS[cfg.SOLVER.AMP.PRECISION] if cfg.SOLVER.AMP.ENABLED else None


def _reason(error: BaseException) -> str:
    # str() of a KeyError is quoted; yacs' other messages and YAML's may span lines.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or one_line(error)
