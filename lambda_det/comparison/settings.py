"""The settings that a run's numbers depend on, and whether two runs have the same.

They are the keys of its config (and ``pretrain`` and ``prepare`` of its suite), with the types of
JSON, so that they can be compared with those that a file has. ``{output}`` stands in them for the
comparison's folder, which may be moved, to another machine say.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from detectron2.config import CfgNode

from lambda_det.config import flat, get_cfg
from lambda_det.errors import InputError

PREPARE, PRETRAIN = "prepare", "pretrain"
RESERVED = ("SEED", "OUTPUT_DIR")
"""Config keys that a suite sets for each run, which are no settings."""
ROUNDING = "MODEL.LAMBDA_RESNET.LAYER.AUTOTUNE"
"""No setting either: it says how a back end is chosen, and all of them compute the same."""


def settings_of(cfg: CfgNode, output: str = "") -> dict[str, object]:
    """Config key -> value, with ``{output}`` for the comparison's folder ``output``."""
    known = {k: value for k, value in flat(cfg).items() if k not in (*RESERVED, ROUNDING)}
    text = json.dumps(known, default=str)
    return json.loads(text.replace(json.dumps(output)[1:-1], "{output}") if output else text)


@functools.cache
def default_settings() -> dict[str, object]:
    """The settings of a config in which nothing was changed."""
    return settings_of(get_cfg())


def changed_settings(settings: Mapping[str, object]) -> list[str]:
    """The keys whose values are not the defaults."""
    default = default_settings()
    return [key for key, value in settings.items() if default.get(key) != value]


def check_settings(settings: Mapping[str, object], known: Mapping, place: str, way: str) -> None:
    """Check that a file is of a run with these settings.

    A key that only one side has (it is new, or only another version of detectron2 has it) counts
    with its default on the other side.

    Args:
        settings: the settings that are wanted.
        known: content of the file: its ``"settings"``, and under ``"changed"`` the keys whose
            values were not the defaults of the version that wrote it.
        place, way: the file or folder, and what the user may do, for the error message.

    Raises:
        InputError: a setting is another one.
    """
    then, default = known["settings"], default_settings()
    for key, value in settings.items():
        if key == PREPARE and key not in then:
            continue  # a run's folder has its data beside it; only a kept JSON has the commands
        was = then[key] if key in then else default.get(key)
        if was != value:
            raise InputError(
                f"{place} contains a run with {key} {was!r}, the suite says {value!r}; {way}"
            )
    for key in known.get("changed", ()):
        if key not in settings:
            raise InputError(
                f"{place} contains a run with {key} {then.get(key)!r}, which this version of "
                f"detectron2 or of this package does not know; {way}"
            )
