"""The keys of a suite file; docs/comparison.md explains them, field by field.

OmegaConf checks each key and its type against the fields of the dataclasses below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_det.comparison.controls import CONTROLS
from lambda_det.errors import InputError, reason_of

# Key -> the value that is needed, for messages about a wrong one.
_NEEDED = {
    "name": "a text",
    "label": "a text",
    "baseline": "the name of a model",
    "seeds": "a list of different whole numbers from 0 on",
    "models": "a mapping of names and models",
    "sets": "a mapping of names and sets",
    "config": "the path or the name of a config",
    "overrides": "a mapping of config keys and values",
    "prepare": "a list of commands",
    "controls": f"a list of {' and '.join(CONTROLS)}, of one of them, or an empty one",
    "resume": "True or False",
    "gpus_per_run": "a whole number from 1 on",
    "throughput": "the path of a record",
    "pretrain": "a command that writes {weights}",
    "keep": "the path of a folder",
    "finish": "a command",
    "published": "the name of a published row",
}


@dataclass
class ModelEntry:
    """The keys of ``models.NAME``."""

    config: str = MISSING
    label: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    baseline: str = ""
    published: str = ""


@dataclass
class SetEntry:
    """The keys of ``sets.NAME``."""

    label: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    prepare: list[str] = field(default_factory=list)


@dataclass
class SuiteKeys:
    """The keys of a suite; ``models`` and ``sets`` become dictionaries of entries."""

    seeds: list[int] = MISSING
    models: dict[str, Any] = MISSING
    baseline: str = ""
    name: str = ""
    sets: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    prepare: list[str] = field(default_factory=list)
    controls: list[str] = field(default_factory=lambda: list(CONTROLS))
    resume: bool = False
    gpus_per_run: int = 1
    throughput: str = ""
    pretrain: str = ""
    keep: str = ""
    finish: str = ""


Keys = TypeVar("Keys", ModelEntry, SetEntry, SuiteKeys)

_DOLLAR = "\ue000"  # stands for "$", because OmegaConf would interpolate the "${HOME}" of a command


def read_content(path: str) -> object:
    """Read a suite file, with :data:`_DOLLAR` for each dollar."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().replace("$", _DOLLAR)
        # OmegaConf's YAML loader refuses a duplicate key.
        return OmegaConf.to_container(OmegaConf.create(text))
    except OSError as error:
        raise InputError(f"suite {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError, RecursionError) as error:
        reason = reason_of(error).replace(' in "<unicode string>"', "")
        raise InputError(f"suite {path} is not YAML: {_as_written(reason)}") from error


def checked_keys(content: object) -> SuiteKeys:
    """Check the content of a suite file.

    Raises:
        InputError: a key is unknown, missing or of a wrong type.
    """
    keys = _checked(SuiteKeys, content, "")
    keys.models = _entries(ModelEntry, "models", keys.models)
    keys.sets = _entries(SetEntry, "sets", keys.sets) or {"": SetEntry()}
    if not keys.models:
        raise InputError("models is empty; at least one model is needed")
    for key, right in (
        ("seeds", keys.seeds and len(set(keys.seeds)) == len(keys.seeds) and min(keys.seeds) >= 0),
        ("controls", {*keys.controls} <= {*CONTROLS}),
        ("gpus_per_run", keys.gpus_per_run >= 1),
        ("pretrain", not keys.pretrain or "{weights}" in keys.pretrain),
    ):
        if not right:
            raise InputError(f"{key} {getattr(keys, key)!r}; {_NEEDED[key]} is needed")
    for name, entry in keys.models.items():
        entry.baseline = entry.baseline or keys.baseline
        if entry.baseline not in keys.models:
            raise InputError(
                f"baseline {entry.baseline!r} of model {name}: expected one of the models "
                f"{', '.join(keys.models)}"
            )
    return keys


def _entries(kind: type[Keys], where: str, content: Mapping) -> dict[str, Keys]:
    for name in content:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
            raise InputError(f"{where}: the name {name!r} cannot be a folder's name")
    return {str(name): _checked(kind, entry, f"{where}.{name}") for name, entry in content.items()}


def _checked(kind: type[Keys], content: object, where: str) -> Keys:
    """Check the keys and the types of their values; a key without a value counts as absent."""
    if not isinstance(content, dict):
        raise InputError(f"{where or 'its top level'} is {content!r}; a mapping is needed")
    names = [each.name for each in fields(kind)]
    start = where and f"{where}."
    node = OmegaConf.structured(kind)
    for key, value in content.items():
        if key not in names:
            place = where and f"{where}: "
            raise InputError(f"{place}unknown key {key!r}; allowed: {', '.join(sorted(names))}")
        if value is None:
            continue
        try:
            node[key] = value
        except OmegaConfBaseException as error:
            raise InputError(
                f"{start}{key} {_as_written(value)!r}; {_NEEDED[key]} is needed"
            ) from error
    for key in names:
        if OmegaConf.is_missing(node, key):
            raise InputError(f"{start}{key} is missing; {_NEEDED[key]} is needed")
    return kind(**_as_written(OmegaConf.to_container(node)))


def _as_written(value: Any) -> Any:
    """Put the dollars back, in every string of lists and dictionaries."""
    if isinstance(value, dict):
        return {_as_written(key): _as_written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_written(each) for each in value]
    return value.replace(_DOLLAR, "$") if isinstance(value, str) else value
