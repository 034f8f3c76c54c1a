"""Metrics of a training to Weights & Biases, for those who have it."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from lambda_det.engine.run_state import WINDOW
from lambda_det.errors import InputError, key, reason_of
from lambda_det.io import read_text, write_bytes

RUN_FILE = "wandb_run_id"
"""In OUTPUT_DIR: the run that a resumed training goes on in."""


class WandbWriter(EventWriter):
    """Sends what ``metrics.json`` gets to a run of W&B, and the config when it begins.

    Args:
        project: project of W&B.
        name: of the run; "" = the last part of ``folder``.
        folder: OUTPUT_DIR.
        config: the config as YAML.
        resume: whether the run that is in the folder goes on.

    Raises:
        InputError: the package is not installed, or W&B refuses, for example without a login.
    """

    def __init__(self, project: str, name: str, folder: str, config: str, *, resume: bool) -> None:
        wandb = check_wandb()
        path = os.path.join(folder, RUN_FILE)
        number = read_text(path).strip() if resume and os.path.exists(path) else None
        try:
            self._run = wandb.init(
                project=project,
                name=name or os.path.basename(os.path.normpath(folder)),
                dir=folder,
                id=number or None,
                resume="allow",
                config=yaml.safe_load(config),
            )
        except Exception as error:  # W&B's own types
            reason = reason_of(error)[:200]
            raise InputError(f"{key('WANDB.ENABLED')}: W&B cannot be reached ({reason})") from error
        write_bytes(f"{self._run.id}\n".encode(), path)
        self._written = -1

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(WINDOW)
        new = {name: value for name, (value, step) in latest.items() if step > self._written}
        if new:
            # A step that W&B has already, of a training that was killed after its checkpoint, is
            # ignored there; the numbers are the same.
            self._run.log(new, step=storage.iter)
            self._written = max(step for _, step in latest.values())

    def close(self) -> None:
        self._run.finish()


def check_wandb() -> ModuleType:
    """Return the package wandb.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise InputError(
            f"{key('WANDB.ENABLED')}=True: needs the package wandb (pip install wandb)"
        ) from error
