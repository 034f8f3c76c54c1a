"""A suite: the models, the seeds and the one budget of a comparison, and the runs that it plans."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from lambda_det.comparison.controls import (
    CONTROLS,
    IDLE_STAGES,
    TRAINED_WITHOUT,
    ZEROED,
    config_without,
    idle_stages,
)
from lambda_det.comparison.run import PRETRAINED_FILE, Run, half_written, run_key
from lambda_det.comparison.settings import PREPARE, PRETRAIN, RESERVED, settings_of
from lambda_det.comparison.suite_keys import (
    ModelEntry,
    SetEntry,
    SuiteKeys,
    checked_keys,
    read_content,
)
from lambda_det.config import flat
from lambda_det.configs import config_path, find_suite, load_config
from lambda_det.errors import InputError

# These keys must be equal in all models of a comparison. Weights may differ with the depth.
_BUDGET = {"SOLVER", "DATASETS", "INPUT", "TEST", "DATALOADER"}
_BUDGET_OF_MODEL = {"MODEL.MASK_ON", "MODEL.DEVICE", "MODEL.BACKBONE.FREEZE_AT"}


@dataclass(frozen=True)
class Suite:
    """A suite file that passed the checks.

    Attributes:
        name: name of the suite.
        seeds: the seeds with which every model is trained.
        labels: name of a model -> its label in tables, in the order of the file.
        baselines: name of a model -> name of the model that its gain is over.
        published: name of a model -> the row of ``configs/published/coco.yaml`` that it names; only
            models that name one.
        sets: name of a set -> its label in tables; ``{"": ""}`` in a suite without sets.
        prepare: commands that run once before the first run.
        runs: all runs, seed by seed, so that the first finished runs can be compared early.
        configs: (set, model) -> its merged config.
        throughput: path of a record with training times, or "".
        controls: the controls of :data:`~lambda_det.comparison.controls.CONTROLS` to make.
        pretrain: command that runs before each run, as it is written in the file; or "".
    """

    name: str
    seeds: tuple[int, ...]
    labels: dict[str, str]
    baselines: dict[str, str]
    published: dict[str, str]
    sets: dict[str, str]
    prepare: tuple[str, ...]
    runs: tuple[Run, ...]
    configs: dict[tuple[str, str], CfgNode]
    throughput: str = ""
    controls: tuple[str, ...] = ()
    pretrain: str = ""

    def config_of(self, run: Run) -> CfgNode:
        """The merged config of a run, without its SEED and OUTPUT_DIR."""
        cfg = self.configs[run.set, run.model]
        return config_without(cfg) if run.without else cfg


def chosen_runs(suite: Suite, only: Sequence[str]) -> list[Run]:
    """Choose the runs whose key is one of ``only``, or begins with the folders of one of them.

    Args:
        suite: the suite.
        only: ``[SET/]MODEL[/seedN[_without]]`` each; empty means all runs.

    Raises:
        InputError: an entry of ``only`` names no run.
    """
    chosen: set[Run] = set()
    for word in only:
        start = f"{word.rstrip('/')}/"
        named = {run for run in suite.runs if f"{run.key}/".startswith(start)}
        if not named:
            keys = ", ".join(run.key for run in suite.runs)
            raise InputError(
                f"--only {word!r}: expected one of {keys}, or the first folders of one"
            )
        chosen |= named
    return [run for run in suite.runs if not only or run in chosen]


def read_suite(
    path: str,
    output: str,
    overrides: Sequence[str] = (),
    *,
    gpus_per_run: int | None = None,
    modules: Sequence[str] = (),
) -> Suite:
    """Read a suite file and plan its runs below ``output``.

    Args:
        path: path of the suite file, or name of a shipped suite.
        output: folder of the comparison.
        overrides: KEY VALUE arguments for every run, which take precedence over the suite's.
        gpus_per_run: number of GPUs of each run, in place of the suite's.
        modules: modules that the commands of each run import.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, missing or of a wrong type, a
            config does not load, or the models differ in more than the model.
    """
    for name in RESERVED:
        if name in overrides[::2]:
            raise InputError(f"{name} is set by the suite itself; it cannot be given here")
    if gpus_per_run is not None and gpus_per_run < 1:
        raise InputError(f"--gpus-per-run {gpus_per_run}: at least 1 is needed")
    path = os.path.abspath(find_suite(path))
    content = read_content(path)
    try:
        keys = checked_keys(content)
        keys.name = keys.name or os.path.splitext(os.path.basename(path))[0]
        keys.gpus_per_run = gpus_per_run or keys.gpus_per_run
        return _Planner(path, os.path.abspath(output), keys, tuple(modules)).suite(overrides)
    except InputError as error:
        raise InputError(f"suite {path}: {error}") from error


class _Planner:
    """Makes the :class:`Suite` of a file's keys."""

    def __init__(self, path: str, output: str, keys: SuiteKeys, modules: tuple[str, ...]) -> None:
        self.path, self.folder, self.output = path, os.path.dirname(path), output
        self.keys, self.modules = keys, modules
        self.config_files = {name: self._config_file(name) for name in keys.models}

    def suite(self, overrides: Sequence[str]) -> Suite:
        keys = self.keys
        arguments = {
            place: (*self._arguments(*place), *overrides)
            for place in itertools.product(keys.sets, keys.models)
        }
        configs: dict[tuple[str, str], CfgNode] = {}
        for place, words in arguments.items():
            try:
                configs[place] = load_config(self.config_files[place[1]], words)
            except InputError as error:
                raise InputError(f"models.{place[1]}: {error}") from error
        for name in keys.sets:
            _check_equal_budget({model: configs[name, model] for model in keys.models})
        prepare = [*keys.prepare, *(c for of in keys.sets.values() for c in of.prepare)]
        return Suite(
            name=keys.name,
            seeds=tuple(keys.seeds),
            labels=_labels(keys.models),
            baselines={name: model.baseline for name, model in keys.models.items()},
            published={name: m.published for name, m in keys.models.items() if m.published},
            sets=_labels(keys.sets),
            prepare=tuple(self._fill(command, shlex.quote) for command in prepare),
            runs=tuple(
                self._run(*place, seed, arguments[place], cfg, without)
                for seed in keys.seeds
                for without in (False, True)
                for place, cfg in configs.items()
                if not without
                or (TRAINED_WITHOUT in keys.controls and idle_stages(cfg) is not None)
            ),
            configs=configs,
            throughput=keys.throughput and self._relative(keys.throughput),
            controls=tuple(name for name in CONTROLS if name in keys.controls),
            pretrain=keys.pretrain,
        )

    def _run(
        self, set_name: str, model: str, seed: int, arguments: tuple[str, ...], cfg: CfgNode,
        without: bool,
    ) -> Run:  # fmt: skip
        keys, key = self.keys, run_key(set_name, model, seed, without)
        zeroed = not without and ZEROED in keys.controls and idle_stages(cfg) is not None
        if without:
            cfg = config_without(cfg)
            arguments += (IDLE_STAGES, json.dumps(cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES))
        folder, config = os.path.join(self.output, "runs", key), self.config_files[model]
        finish = self._fill(keys.finish, shlex.quote)
        finish = finish.replace("{suite}", shlex.quote(self.path)).replace("{run}", key)
        settings = settings_of(cfg, self.output)
        if keys.keep:
            settings[PREPARE] = [*keys.prepare, *keys.sets[set_name].prepare]
        weights = pretrain = ""
        if keys.pretrain:
            if cfg.MODEL.WEIGHTS:
                raise InputError(
                    f"models.{model}: MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} and pretrain both say "
                    "which weights a run starts from; leave one of them out"
                )
            weights = os.path.join(folder, PRETRAINED_FILE)
            pretrain = self._fill(keys.pretrain, shlex.quote)
            pretrain = pretrain.replace("{config}", shlex.quote(config))
            pretrain = pretrain.replace("{weights}", shlex.quote(half_written(weights)))
            pretrain = pretrain.replace("{words}", shlex.join([*arguments, "SEED", str(seed)]))
            settings[PRETRAIN] = keys.pretrain
            arguments += ("MODEL.WEIGHTS", weights)
        return Run(
            model,
            set_name,
            seed,
            config,
            arguments,
            folder=folder,
            resume=keys.resume,
            gpus=keys.gpus_per_run,
            without=without,
            zeroed=zeroed,
            pretrain=pretrain,
            weights=weights,
            modules=self.modules,
            kept=keys.keep and os.path.join(self._relative(self._fill(keys.keep)), f"{key}.json"),
            settings=settings,
            finish=finish,
        )

    def _config_file(self, model: str) -> str:
        """Path of a model's config, which the file names by its path or its shipped name."""
        config = self.keys.models[model].config
        path = self._relative(config)
        if os.path.isfile(path):
            return path
        try:
            return config_path(config)
        except InputError as error:
            raise InputError(f"models.{model}: {path}: no such file, and {error}") from error

    def _arguments(self, set_name: str, model: str) -> list[str]:
        """The KEY VALUE arguments that the file gives to the runs of a model on a set."""
        words: list[str] = []
        for where, overrides in (
            ("overrides", self.keys.overrides),
            (f"sets.{set_name}.overrides", self.keys.sets[set_name].overrides),
            (f"models.{model}.overrides", self.keys.models[model].overrides),
        ):
            for name, value in overrides.items():
                if name in RESERVED:
                    raise InputError(f"{where}.{name} is set by the suite itself")
                words += [str(name), self._fill(str(value))]
        return words

    def _relative(self, path: str) -> str:
        """Resolve a path in the file, which is relative to the folder of the file."""
        return os.path.normpath(os.path.join(self.folder, path))

    def _fill(self, text: str, quote: Callable[[str], str] = str) -> str:
        """Replace ``{python}`` and ``{output}`` in a text by their paths."""
        text = text.replace("{python}", quote(sys.executable))
        return text.replace("{output}", quote(self.output))


def _labels(entries: Mapping[str, ModelEntry] | Mapping[str, SetEntry]) -> dict[str, str]:
    """Name of each entry -> its label in tables."""
    labels = {name: entry.label or name for name, entry in entries.items()}
    label, count = Counter(labels.values()).most_common(1)[0]
    if count > 1:  # tables and plots tell entries apart by their labels
        raise InputError(f"label {label!r} occurs {count} times; each label must be unique")
    return labels


def _check_equal_budget(configs: dict[str, CfgNode]) -> None:
    """Check the configs of the models (name -> config) of one set."""
    (first, reference), *others = configs.items()
    if len(reference.DATASETS.TEST) != 1:
        raise InputError(
            f"DATASETS.TEST {tuple(reference.DATASETS.TEST)}: exactly one dataset is needed"
        )
    expected = _budget(reference)
    for name, cfg in others:
        found = _budget(cfg)
        for key in (*expected, *found):
            if expected.get(key) != found.get(key):
                raise InputError(
                    f"{key} is {expected.get(key)!r} for model {first} and "
                    f"{found.get(key)!r} for {name}; a comparison needs equal budgets, data, "
                    "tasks and devices"
                )


def _budget(cfg: CfgNode) -> dict[str, object]:
    return {
        key: value
        for key, value in flat(cfg).items()
        if key.partition(".")[0] in _BUDGET or key in _BUDGET_OF_MODEL
    }
