"""Reads a suite file. docs/comparison.md explains the file, field by field.

OmegaConf checks each key and its type against the fields of the dataclasses below.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_det.comparison.controls import CONTROLS
from lambda_det.comparison.run import half_written
from lambda_det.comparison.settings import RESERVED
from lambda_det.configs import config_path
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
    """The keys of a suite."""

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


Keys = TypeVar("Keys", ModelEntry, SetEntry, SuiteKeys)

_DOLLAR = "\ue000"  # stands for "$", because OmegaConf would interpolate the "${HOME}" of a command


class SuiteFile:
    """A suite file that has been read.

    Attributes:
        path: absolute path of the file.
        output: folder of the comparison.
        keys: the keys of the suite.
        models, sets: name -> entry; a suite without sets has one set, named "".

    Raises:
        InputError: the file is missing or not YAML, a key is unknown or missing, or a value is
            wrong.
    """

    def __init__(self, path: str, output: str) -> None:
        self.path = os.path.abspath(path)
        self.output = output
        self.keys = keys = self._checked(SuiteKeys, self._read(), "")
        if not keys.name:
            keys.name = os.path.splitext(os.path.basename(path))[0]
        self.models = self._entries(ModelEntry, "models", keys.models)
        self.sets = self._entries(SetEntry, "sets", keys.sets) or {"": SetEntry()}
        if not self.models:
            raise self.error("models is empty; at least one model is needed")
        for key, right in (
            ("seeds", keys.seeds and len(set(keys.seeds)) == len(keys.seeds)),
            ("seeds", all(seed >= 0 for seed in keys.seeds)),
            ("controls", all(name in CONTROLS for name in keys.controls)),
            ("gpus_per_run", keys.gpus_per_run >= 1),
            ("pretrain", not keys.pretrain or "{weights}" in keys.pretrain),
        ):
            if not right:
                raise self._wrong(key, getattr(keys, key), "")
        for name, entry in self.models.items():
            entry.baseline = entry.baseline or keys.baseline
            if entry.baseline not in self.models:
                raise self.error(
                    f"baseline {entry.baseline!r} of model {name}: expected one of the models "
                    f"{', '.join(self.models)}"
                )

    def error(self, text: str) -> InputError:
        """An error whose message names the file."""
        return InputError(f"suite {self.path}: {text}")

    def relative(self, path: str) -> str:
        """Resolve a path in the file, which is relative to the folder of the file."""
        return os.path.normpath(os.path.join(os.path.dirname(self.path), path))

    def config(self, model: str) -> str:
        """Path of a model's config, which the file names by its path or its shipped name.

        Raises:
            InputError: no such config exists.
        """
        config = self.models[model].config
        path = self.relative(config)
        if os.path.isfile(path):
            return path
        try:
            return config_path(config)
        except InputError as error:
            raise self.error(f"models.{model}: {path}: no such file, and {error}") from error

    def labels(self, entries: Mapping[str, ModelEntry] | Mapping[str, SetEntry]) -> dict[str, str]:
        """Name of each entry -> its label in tables.

        Raises:
            InputError: two entries have the same label.
        """
        labels = {name: entry.label or name for name, entry in entries.items()}
        label, count = Counter(labels.values()).most_common(1)[0]
        if count > 1:  # tables and plots tell entries apart by their labels
            raise self.error(f"label {label!r} occurs {count} times; each label must be unique")
        return labels

    def arguments(self, set_name: str, model: str) -> tuple[str, ...]:
        """The KEY VALUE arguments that the file gives to the runs of a model on a set.

        Raises:
            InputError: one of the keys is set by the suite itself.
        """
        words: list[str] = []
        for where, overrides in (
            ("overrides", self.keys.overrides),
            (f"sets.{set_name}.overrides", self.sets[set_name].overrides),
            (f"models.{model}.overrides", self.models[model].overrides),
        ):
            for name, value in overrides.items():
                if name in RESERVED:
                    raise self.error(f"{where}.{name} is set by the suite itself")
                words += [str(name), self.fill(str(value))]
        return tuple(words)

    def prepare(self) -> tuple[str, ...]:
        """The ``prepare`` commands of the suite and of its sets."""
        commands = [*self.keys.prepare, *(c for of in self.sets.values() for c in of.prepare)]
        return tuple(self.fill(command, shlex.quote) for command in commands)

    def pretrain(self, config: str, weights: str, words: Sequence[str]) -> str:
        """The command of ``pretrain`` for one run; it writes to :func:`half_written` of
        ``weights``."""
        command = self.fill(self.keys.pretrain, shlex.quote)
        command = command.replace("{config}", shlex.quote(config))
        command = command.replace("{weights}", shlex.quote(half_written(weights)))
        return command.replace("{words}", shlex.join(words))

    def fill(self, text: str, quote: Callable[[str], str] = str) -> str:
        """Replace ``{python}`` and ``{output}`` in a text by their paths."""
        text = text.replace("{python}", quote(sys.executable))
        return text.replace("{output}", quote(self.output))

    def _entries(self, kind: type[Keys], where: str, content: Mapping) -> dict[str, Keys]:
        for name in content:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", str(name)):
                raise self.error(f"{where}: the name {name!r} cannot be a folder's name")
        return {
            str(name): self._checked(kind, entry, f"{where}.{name}")
            for name, entry in content.items()
        }

    def _checked(self, kind: type[Keys], content: object, where: str) -> Keys:
        """Check the keys and the types of their values; a key without a value counts as absent."""
        if not isinstance(content, dict):
            raise self.error(f"{where or 'its top level'} is {content!r}; a mapping is needed")
        names = [each.name for each in fields(kind)]
        node = OmegaConf.structured(kind)
        for key, value in content.items():
            if key not in names:
                place = f"{where}: " if where else ""
                raise self.error(f"{place}unknown key {key!r}; allowed: {', '.join(sorted(names))}")
            if value is None:
                continue
            try:
                node[key] = value
            except OmegaConfBaseException as error:
                raise self._wrong(key, value, where) from error
        for key in names:
            if OmegaConf.is_missing(node, key):
                raise self.error(
                    f"{where}{'.' if where else ''}{key} is missing; {_NEEDED[key]} is needed"
                )
        return kind(**_as_written(OmegaConf.to_container(node)))

    def _wrong(self, key: str, value: object, where: str) -> InputError:
        value = _as_written(value)
        place = f"{where}.{key}" if where else key
        return self.error(f"{place} {value!r}; {_NEEDED[key]} is needed")

    def _read(self) -> object:
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read().replace("$", _DOLLAR)
            # OmegaConf's YAML loader refuses a duplicate key.
            return OmegaConf.to_container(OmegaConf.create(text))
        except OSError as error:
            raise InputError(f"suite {self.path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError, RecursionError) as e:
            reason = reason_of(e).replace(' in "<unicode string>"', "")
            raise InputError(f"suite {self.path} is not YAML: {_as_written(reason)}") from e


def _as_written(value: Any) -> Any:
    """Put the dollars back, in every string of lists and dictionaries."""
    if isinstance(value, dict):
        return {_as_written(key): _as_written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_written(each) for each in value]
    return value.replace(_DOLLAR, "$") if isinstance(value, str) else value
