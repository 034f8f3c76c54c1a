"""A suite: the models, the seeds and the one budget of a comparison, and the runs that it plans."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
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
from lambda_det.comparison.run import PRETRAINED_FILE, Run, run_key
from lambda_det.comparison.settings import PREPARE, PRETRAIN, RESERVED, settings_of
from lambda_det.comparison.suite_file import SuiteFile
from lambda_det.config import flat
from lambda_det.configs import find_suite, load_config
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
    file = SuiteFile(find_suite(path), os.path.abspath(output))
    keys = file.keys
    for name in RESERVED:
        if name in overrides[::2]:
            raise InputError(f"{name} is set by the suite itself; it cannot be given here")
    if gpus_per_run is not None:
        if gpus_per_run < 1:
            raise InputError(f"--gpus-per-run {gpus_per_run}: at least 1 is needed")
        keys.gpus_per_run = gpus_per_run
    arguments: dict[tuple[str, str], tuple[str, ...]] = {}
    configs: dict[tuple[str, str], CfgNode] = {}
    for set_name, model in itertools.product(file.sets, file.models):
        place = set_name, model
        arguments[place] = (*file.arguments(set_name, model), *overrides)
        config = file.config(model)
        try:
            configs[place] = load_config(config, arguments[place])
        except InputError as error:
            raise file.error(f"models.{model}: {error}") from error
    for set_name in file.sets:
        _check_equal_budget(file, {model: configs[set_name, model] for model in file.models})
    return Suite(
        name=keys.name,
        seeds=tuple(keys.seeds),
        labels=file.labels(file.models),
        baselines={name: model.baseline for name, model in file.models.items()},
        published={name: m.published for name, m in file.models.items() if m.published},
        sets=file.labels(file.sets),
        prepare=file.prepare(),
        runs=tuple(
            _planned_run(file, place, seed, arguments[place], cfg, modules, without=without)
            for seed in keys.seeds
            for without in (False, True)
            for place, cfg in configs.items()
            if not without or (TRAINED_WITHOUT in keys.controls and idle_stages(cfg) is not None)
        ),
        configs=configs,
        throughput=keys.throughput and file.relative(keys.throughput),
        controls=tuple(name for name in CONTROLS if name in keys.controls),
        pretrain=keys.pretrain,
    )


def _planned_run(
    file: SuiteFile,
    place: tuple[str, str],
    seed: int,
    arguments: tuple[str, ...],
    cfg: CfgNode,
    modules: Sequence[str],
    *,
    without: bool,
) -> Run:
    keys, (set_name, model) = file.keys, place
    key = run_key(set_name, model, seed, without)
    if without:
        cfg = config_without(cfg)
        arguments += (IDLE_STAGES, json.dumps(cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES))
    folder, config = os.path.join(file.output, "runs", key), file.config(model)
    settings = settings_of(cfg, file.output)
    if keys.keep:
        settings[PREPARE] = [*keys.prepare, *file.sets[set_name].prepare]
    weights = command = ""
    if keys.pretrain:
        if cfg.MODEL.WEIGHTS:
            raise file.error(
                f"models.{model}: MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} and pretrain both say which "
                "weights a run starts from; leave one of them out"
            )
        weights = os.path.join(folder, PRETRAINED_FILE)
        command = file.pretrain(config, weights, (*arguments, "SEED", str(seed)))
        settings[PRETRAIN] = keys.pretrain
        arguments += ("MODEL.WEIGHTS", weights)
    kept = keys.keep and os.path.join(file.relative(file.fill(keys.keep)), f"{key}.json")
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
        zeroed=not without and ZEROED in keys.controls and idle_stages(cfg) is not None,
        pretrain=command,
        weights=weights,
        modules=tuple(modules),
        kept=kept,
        settings=settings,
    )


def _check_equal_budget(file: SuiteFile, configs: dict[str, CfgNode]) -> None:
    """Check the configs of the models (name -> config) of one set."""
    (first, reference), *others = configs.items()
    if len(reference.DATASETS.TEST) != 1:
        raise file.error(
            f"DATASETS.TEST {tuple(reference.DATASETS.TEST)}: exactly one dataset is needed"
        )
    expected = _budget(reference)
    for name, cfg in others:
        found = _budget(cfg)
        for key in (*expected, *found):
            if expected.get(key) != found.get(key):
                raise file.error(
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
