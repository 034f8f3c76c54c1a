"""The suite file as it is read: every key checked, and the one line that a wrong one gets."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import yaml
from detectron2.config import CfgNode

from lambda_det.comparison.controls import CONTROLS
from lambda_det.comparison.run import half_written
from lambda_det.configs import config_path
from lambda_det.errors import InputError
from lambda_det.evaluation.records import flat

_KEYS = {
    "name", "baseline", "seeds", "prepare", "overrides", "models", "sets", "resume",
    "gpus_per_run", "throughput", "controls", "pretrain", "keep",
}  # fmt: skip
_MODEL_KEYS = {"config", "label", "overrides", "baseline", "published"}
_SET_KEYS = {"label", "overrides", "prepare"}
RESERVED = ("SEED", "OUTPUT_DIR")
PRETRAIN, PREPARE = "pretrain", "prepare"
"""Keys of a suite, and what they are called among the settings that a run's numbers depend on."""
# What has to be the same for a comparison to be one. Weights may differ: those of their depth.
_BUDGET = {"SOLVER", "DATASETS", "INPUT", "TEST", "DATALOADER"}
_BUDGET_OF_MODEL = {"MODEL.MASK_ON", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"}


class _UniqueKeys(yaml.SafeLoader):
    """A key that is there twice is an error, and not a model that is silently lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        for key, count in Counter(keys).items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there {count} times", node.start_mark
                )
        return super().construct_mapping(node, deep)


class SuiteFile:
    """A suite file, and the line that a wrong one gets."""

    def __init__(self, path: str, output: str) -> None:
        self.path = os.path.abspath(path)
        self.output = output
        self.content = self._read()
        for key in self.content:
            if key not in _KEYS:
                raise self.error(f"unknown key {key!r}; allowed: {', '.join(sorted(_KEYS))}")

    def error(self, text: str) -> InputError:
        return InputError(f"suite {self.path}: {text}")

    def relative(self, path: str) -> str:
        return os.path.normpath(os.path.join(os.path.dirname(self.path), path))

    def config(self, model: str, config: str) -> str:
        path = self.relative(config)
        try:
            there = os.path.lexists(path) and not os.path.isdir(path)
            return path if there else config_path(config)
        except InputError as error:
            raise self.error(f"models.{model}: {path}: no such file, and {error}") from error

    def name(self, name: object) -> str:
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise self.error(f"name {name!r}; one line of text is needed")
        return name

    def mapping(self, key: str, value: object) -> dict:
        if not isinstance(value, dict):
            raise self.error(f"{key} is {value!r}; a mapping is needed")
        return value

    def check_name(self, kind: str, name: object) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise self.error(f"{kind} name {name!r} cannot be a folder's name")

    def check_model(self, name: object, entry: object) -> None:
        self.check_name("model", name)
        entry = self.mapping(f"models.{name}", entry)
        if set(entry) - _MODEL_KEYS or not isinstance(entry.get("config"), str):
            raise self.error(
                f"models.{name} has keys {', '.join(map(str, entry)) or 'none'}; config is needed, "
                f"{', '.join(sorted(_MODEL_KEYS - {'config'}))} are allowed"
            )

    def baseline(self, name: str, entry: dict, default: object, models: dict) -> str:
        baseline = entry.get("baseline", default)
        if not isinstance(baseline, str) or baseline not in models:
            raise self.error(
                f"baseline {baseline!r} of model {name}: expected one of the models "
                f"{', '.join(models)}"
            )
        return baseline

    def seeds(self, seeds: object) -> tuple[int, ...]:
        if (
            not isinstance(seeds, list)
            or not seeds
            or not all(type(seed) is int and seed >= 0 for seed in seeds)
            or len(set(seeds)) < len(seeds)
        ):
            raise self.error(
                f"seeds {seeds!r}; a list of different whole numbers from 0 on is needed"
            )
        return tuple(seeds)

    def controls(self, controls: object) -> tuple[str, ...]:
        if not isinstance(controls, list) or not all(name in CONTROLS for name in controls):
            raise self.error(
                f"controls {controls!r}; a list of {' and '.join(CONTROLS)} is needed, of one of "
                "them, or an empty one"
            )
        return tuple(name for name in CONTROLS if name in controls)

    def sets(self, sets: object) -> dict[str, dict]:
        if sets is None:
            return {"": {}}
        if not self.mapping("sets", sets):
            raise self.error("sets is empty; leave the key out, or name at least one")
        for name, entry in sets.items():
            self.check_name("set", name)
            for key in self.mapping(f"sets.{name}", entry):
                if key not in _SET_KEYS:
                    raise self.error(
                        f"sets.{name}: unknown key {key!r}; allowed: {', '.join(sorted(_SET_KEYS))}"
                    )
        return sets

    def commands(self, key: str, commands: object) -> tuple[str, ...]:
        commands = commands or []
        if not isinstance(commands, list) or not all(isinstance(c, str) for c in commands):
            raise self.error(f"{key} {commands!r}; a list of commands is needed")
        return tuple(self.fill(command, shlex.quote) for command in commands)

    def pretrain(self, command: object) -> str:
        if command is None:
            return ""
        if not isinstance(command, str) or "{weights}" not in command:
            raise self.error(f"pretrain {command!r}; a command that writes {{weights}} is needed")
        return command

    def keep(self, folder: object) -> str:
        if folder is None:
            return ""
        if not isinstance(folder, str) or not folder.strip():
            raise self.error(f"keep {folder!r}; the path of a folder is needed")
        return self.relative(self.fill(folder))

    def words(self, key: str, overrides: object) -> tuple[str, ...]:
        words: list[str] = []
        for name, value in self.mapping(key, {} if overrides is None else overrides).items():
            if name in RESERVED:
                raise self.error(f"{key}.{name} is set by the suite itself")
            words += [str(name), self.fill(str(value))]
        return tuple(words)

    def fill(self, text: str, quote: Callable[[str], str] = str) -> str:
        text = text.replace("{python}", quote(sys.executable))
        return text.replace("{output}", quote(self.output))

    def for_run(self, command: str, config: str, weights: str, words: Sequence[str]) -> str:
        """The command of ``pretrain`` for one run; it writes beside ``weights``."""
        command = self.fill(command, shlex.quote).replace("{config}", shlex.quote(config))
        command = command.replace("{weights}", shlex.quote(half_written(weights)))
        return command.replace("{words}", shlex.join(words))

    def labels(self, kind: str, entries: dict[str, dict]) -> dict[str, str]:
        labels = {name: str(entry.get("label", name)) for name, entry in entries.items()}
        for name, label in labels.items():
            if "label" not in entries[name]:
                continue
            if entries[name]["label"] is None or not label.strip() or "\n" in label:
                raise self.error(f"label {label!r} of {name}; one line of text is needed")
        for label, count in Counter(labels.values()).items():
            if count > 1:  # tables and curves go by them
                raise self.error(f"label {label!r} of {count} {kind}; each needs its own")
        return labels

    def settings(self, cfg: CfgNode) -> dict[str, object]:
        known = {key: value for key, value in flat(cfg).items() if key not in RESERVED}
        # As JSON has it, to be compared with what was read from a file; the comparison's folder may
        # have been moved, to another machine say.
        text = json.dumps(known, default=str)
        return json.loads(text.replace(json.dumps(self.output)[1:-1], "{output}"))

    def check_equal_budget(self, configs: dict[str, CfgNode]) -> None:
        (first, reference), *others = configs.items()
        if len(reference.DATASETS.TEST) != 1:
            raise self.error(
                f"DATASETS.TEST {tuple(reference.DATASETS.TEST)}: one dataset to judge by is needed"
            )
        expected = _budget(reference)
        for name, cfg in others:
            found = _budget(cfg)
            for key in (*expected, *found):
                if expected.get(key) != found.get(key):
                    raise self.error(
                        f"{key} is {expected.get(key)!r} for model {first} and "
                        f"{found.get(key)!r} for {name}; a comparison needs equal budgets, data, "
                        "tasks and devices"
                    )

    def _read(self) -> dict:
        try:
            with open(self.path, encoding="utf-8") as file:
                content = _UniqueKeys(file).get_single_data()
        except OSError as error:
            raise InputError(f"suite {self.path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 31st of June
            reason = " ".join(str(error).split())
            raise InputError(f"suite {self.path} is not YAML: {reason}") from error
        if not isinstance(content, dict):
            raise self.error(f"its top level is no mapping of {', '.join(sorted(_KEYS))}")
        return content


def _budget(cfg: CfgNode) -> dict[str, object]:
    return {
        key: value
        for key, value in flat(cfg).items()
        if key.partition(".")[0] in _BUDGET or key in _BUDGET_OF_MODEL
    }
