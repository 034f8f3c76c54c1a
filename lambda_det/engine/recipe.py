"""The batch that a config's learning rate was chosen for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from lambda_det.engine.config_numbers import read_yaml


@dataclass(frozen=True)
class Recipe:
    """A learning rate and the images per iteration that it was chosen for."""

    base_lr: float
    images_per_batch: int

    def rate_for(self, images_per_batch: int) -> float:
        """The rate for another batch by the linear scaling rule."""
        return self.base_lr * images_per_batch / self.images_per_batch

    @classmethod
    def from_files(cls, config_file: str, overrides: Sequence[str] = ()) -> Recipe | None:
        """The last of the bases, the config file and the overrides that sets ``SOLVER.BASE_LR``,
        with the ``SOLVER.IMS_PER_BATCH`` that holds there.

        Args:
            config_file: path of a YAML file that detectron2 reads; "" = none.
            overrides: keys and values by turns.

        Returns:
            None where neither sets both, or a base cannot be read in this simple way.
        """
        pairs = dict(zip(overrides[::2], overrides[1::2], strict=False))
        given = {
            key: pairs[f"SOLVER.{key}"]
            for key in ("BASE_LR", "IMS_PER_BATCH")
            if f"SOLVER.{key}" in pairs
        }
        base_lr = batch = recipe = None
        try:
            for solver in (*_layers(config_file), given):
                batch = int(solver.get("IMS_PER_BATCH", batch or 0)) or None
                if "BASE_LR" in solver:
                    base_lr = float(solver["BASE_LR"])
                    recipe = cls(base_lr, batch) if batch and base_lr > 0 else None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
            return None
        return recipe


def _layers(config_file: str) -> list[Mapping]:
    """The ``SOLVER`` sections of a file and its bases, the innermost base first."""
    if not config_file:
        return []
    with open(config_file, encoding="utf-8") as file:
        content = read_yaml(file) or {}
    base = content.get("_BASE_")
    layers = []
    if base:
        base = os.path.expanduser(base)
        if not os.path.isabs(base):
            base = os.path.join(os.path.dirname(config_file), base)
        layers = _layers(base)
    return [*layers, content.get("SOLVER") or {}]
