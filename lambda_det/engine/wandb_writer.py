"""Metrics of a training to Weights & Biases, for those who have it."""

from __future__ import annotations

import importlib
import os

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from lambda_det.errors import InputError, reason_of
from lambda_det.io import read_text, write_bytes

RUN_FILE = "wandb_run_id"
"""In OUTPUT_DIR: the run that a resumed training goes on in."""

_WINDOW = 20  # iterations that a median is taken over, as in the other writers


class WandbWriter(EventWriter):
    """What ``metrics.json`` gets, to a run of W&B with the whole config; without ``WANDB.ENABLED``
    it does nothing.

    Args:
        cfg: ``WANDB.PROJECT``, ``WANDB.NAME`` ("": the last part of OUTPUT_DIR), ``OUTPUT_DIR``.

    Raises:
        InputError: the package is not there, or does not log in.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg, self._run, self._written = cfg, None, -1
        check_wandb(cfg)

    def begin(self, *, resume: bool) -> None:
        """Open the run: a new one, or the one of the training that is resumed.

        Raises:
            InputError: W&B refuses, as without a login.
        """
        if not self._cfg.WANDB.ENABLED:
            return
        wandb, folder = importlib.import_module("wandb"), self._cfg.OUTPUT_DIR
        path = os.path.join(folder, RUN_FILE)
        number = read_text(path).strip() if resume and os.path.exists(path) else None
        try:
            self._run = wandb.init(
                project=self._cfg.WANDB.PROJECT,
                name=self._cfg.WANDB.NAME or os.path.basename(os.path.normpath(folder)),
                dir=folder,
                id=number or None,
                resume="allow",
                config=_plain(self._cfg),
            )
        except Exception as error:  # of its own kinds
            reason = reason_of(error)[:200]
            raise InputError(f"WANDB.ENABLED: W&B cannot be reached ({reason})") from error
        write_bytes(f"{self._run.id}\n".encode(), path)

    def write(self) -> None:
        if self._run is None:
            return
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(_WINDOW)
        new = {name: value for name, (value, step) in latest.items() if step > self._written}
        if new:
            # A step that W&B has already, of a training that was killed behind its checkpoint, is
            # ignored there; the numbers are the same.
            self._run.log(new, step=storage.iter)
            self._written = max(step for _, step in latest.values())

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def check_wandb(cfg: CfgNode) -> None:
    """Is the package there, where the config wants it?

    Raises:
        InputError: it is not.
    """
    if cfg.WANDB.ENABLED:
        try:
            importlib.import_module("wandb")
        except ImportError as error:
            raise InputError(
                "WANDB.ENABLED=True: needs the package wandb (pip install wandb)"
            ) from error


def _plain(node: object) -> object:
    if isinstance(node, CfgNode):
        return {key: _plain(value) for key, value in node.items()}
    return list(node) if isinstance(node, tuple) else node
