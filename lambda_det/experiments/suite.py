"""The suite file: which models, with which seeds, all on one budget.

.. code-block:: yaml

    name: quick_cpu
    baseline: resnet                 # gains are over this model
    seeds: [1, 2, 3]
    prepare:                         # commands, run once before the first run
      - "{python} -m lambda_det make_shapes_dataset --output {output}/shapes"
    overrides:                       # of every run: data and budget
      DATASETS.COCO_FOLDER: "{output}/shapes"
      SOLVER.MAX_ITER: 100
    models:
      resnet: {config: ../quick/x.yaml, label: R-50, overrides: {MODEL.LAMBDA_RESNET.DEPTH: 50}}
      lambda: {config: ../quick/x.yaml}

Needed are ``baseline``, ``seeds``, ``models`` and each model's ``config``. More that may be said:

``resume: True``
    A begun run goes on from its last checkpoint. False, the default, starts it again: time and
    memory of a resumed run are those of its last attempt alone.
``gpus_per_run: 8``
    Each run trains on so many GPUs (default 1).
``throughput: ../../results/x.json``
    A record of a comparison, or of ``--measure``, whose training times ``--plan`` estimates hours
    from, where all that decides the speed is the same (heads, images, batch on a GPU, precision …).
``sets: {name: {label: …, overrides: {…}, prepare: […]}}``
    Every model runs on every set, such as two datasets; the budget is equal within a set, and
    gains are within a set.
``controls: [zeroed]``
    Which of two controls are made of what the AP rests on; by default ``[zeroed,
    trained_without]``, ``[]`` is none. *zeroed*: the weights of each run are evaluated once more
    with the residual branches of res4 and res5 taken as 0. *trained_without*: one further training
    for each model and seed with these branches held at 0 throughout.
``pretrain: "{python} -m my.pretraining --config {config} --out {weights} {words}"``
    A command for each run, before it: ``{weights}`` is the file that it has to leave, from which
    the run starts (``MODEL.WEIGHTS``), ``{words}`` the run's KEY VALUE pairs with its SEED. A run
    waits for its own; what an earlier attempt at it has made is not made again.
``keep: runs/mine``
    A folder that gets a JSON of each finished run. A run that has one there is finished, wherever
    it was trained: a long study commits them and goes on from a fresh checkout.
``models.NAME.baseline``
    Another baseline for this model: that of its depth, say.
``models.NAME.published``
    Name of a row of ``configs/published/coco.yaml`` to show beside it.

``config``, ``throughput`` and ``keep`` are relative to the suite file (a ``config`` that is no file
there is the name of a shipped one); ``{output}`` is the comparison's folder, ``{python}`` the
running interpreter; in commands both are quoted for the shell, in which they run in the root of the
checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from lambda_det.configs import find_suite
from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError
from lambda_det.experiments.controls import (
    CONTROLS,
    IDLE_STAGES,
    TRAINED_WITHOUT,
    ZEROED,
    config_without,
    idle_stages,
)
from lambda_det.experiments.run import PRETRAINED_FILE, Run, run_key
from lambda_det.experiments.suite_file import PREPARE, PRETRAIN, RESERVED, SuiteFile


@dataclass(frozen=True)
class Suite:
    """A suite file that passed the checks.

    Attributes:
        name: of the suite.
        seeds: of every model.
        labels: name of a model -> what tables call it, in the order of the file.
        baselines: name of a model -> that of the model which its gain is over.
        published: name of a model -> row of ``configs/published/coco.yaml``; where it names one.
        sets: name of a set -> what tables call it; ``{"": ""}`` without sets.
        prepare: commands to run once.
        runs: all of them, seed by seed, so that what is there early can be compared.
        configs: (set, model) -> its config, merged.
        throughput: path of a record with training times, or "".
        controls: those of :data:`~lambda_det.experiments.controls.CONTROLS` that are made.
        pretrain: command that is run before each run, as the file has it; or "".
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
        """The config of a run, merged, without SEED and OUTPUT_DIR."""
        cfg = self.configs[run.set, run.model]
        return config_without(cfg) if run.without else cfg


def chosen_runs(suite: Suite, only: Sequence[str]) -> list[Run]:
    """The runs whose key is one of ``only`` or begins with the folders that it names; all where
    there is none.

    Raises:
        InputError: one of them names no run.
    """
    for word in only:
        if not any(_is_of(run, word) for run in suite.runs):
            keys = ", ".join(run.key for run in suite.runs)
            raise InputError(f"--only {word!r}: expected one of {keys}, or how one begins")
    return [run for run in suite.runs if not only or any(_is_of(run, word) for word in only)]


def _is_of(run: Run, word: str) -> bool:
    return f"{run.key}/".startswith(f"{word.rstrip('/')}/")


def read_suite(
    path: str, output: str, overrides: Sequence[str] = (), *, gpus_per_run: int | None = None
) -> Suite:
    """Read a suite file and plan its runs below ``output``.

    Args:
        path: of the suite file, or the name of a shipped suite.
        output: folder of the comparison.
        overrides: KEY VALUE words for every run, above the suite's own.
        gpus_per_run: in place of the suite's.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown, missing or of a wrong type, a
            config does not load, or the models differ in more than the model.
    """
    path = find_suite(path)
    reader = SuiteFile(path, os.path.abspath(output))
    content = reader.content
    models = reader.mapping("models", content.get("models"))
    if not models:
        raise reader.error("models is empty; at least one model is needed")
    for name, entry in models.items():
        reader.check_model(name, entry)
    baselines = {
        name: reader.baseline(name, entry, content.get("baseline"), models)
        for name, entry in models.items()
    }
    for name in overrides[::2]:
        if name in RESERVED:
            raise InputError(f"{name} is set by the suite itself; it cannot be given here")
    seeds = reader.seeds(content.get("seeds"))
    gpus = content.get("gpus_per_run", 1) if gpus_per_run is None else gpus_per_run
    if type(gpus) is not int or gpus < 1:
        raise reader.error(f"gpus_per_run {gpus!r}; a whole number from 1 on is needed")
    resume = content.get("resume", False)
    if type(resume) is not bool:
        raise reader.error(f"resume {resume!r}; True or False is needed")
    pretrain, kept = reader.pretrain(content.get("pretrain")), reader.keep(content.get("keep"))
    throughput = content.get("throughput") or ""
    if not isinstance(throughput, str):
        raise reader.error(f"throughput {throughput!r}; the path of a record is needed")
    controls = reader.controls(content.get("controls", list(CONTROLS)))
    sets = reader.sets(content.get("sets"))
    prepare = reader.commands("prepare", content.get("prepare"))
    made_by: dict[str, list[str]] = {}
    shared = reader.words("overrides", content.get("overrides"))
    plans: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    configs: dict[tuple[str, str], CfgNode] = {}
    for set_name, set_entry in sets.items():
        prepare += reader.commands(f"sets.{set_name}.prepare", set_entry.get("prepare"))
        made_by[set_name] = [*(content.get("prepare") or []), *(set_entry.get("prepare") or [])]
        of_set = reader.words(f"sets.{set_name}.overrides", set_entry.get("overrides"))
        for name, entry in models.items():
            own = reader.words(f"models.{name}.overrides", entry.get("overrides"))
            config = reader.config(name, entry["config"])
            words = (*shared, *of_set, *own, *overrides)
            plans[set_name, name] = config, words
            try:
                configs[set_name, name] = load_config(config, words)
            except InputError as error:
                raise reader.error(f"models.{name}: {error}") from error
        reader.check_equal_budget({m: cfg for (s, m), cfg in configs.items() if s == set_name})
    return Suite(
        name=reader.name(content.get("name", os.path.splitext(os.path.basename(path))[0])),
        seeds=seeds,
        labels=reader.labels("models", models),
        baselines=baselines,
        published={n: str(e["published"]) for n, e in models.items() if e.get("published")},
        sets=reader.labels("sets", sets),
        prepare=prepare,
        runs=tuple(
            _planned_run(
                reader,
                set_name,
                name,
                seed,
                plans[set_name, name],
                cfg,
                controls=controls,
                without=without,
                resume=resume,
                gpus=gpus,
                pretrain=pretrain,
                kept=kept,
                prepare=made_by[set_name],
            )
            for seed in seeds
            for without in (False, True)
            for (set_name, name), cfg in configs.items()
            if not without or (TRAINED_WITHOUT in controls and idle_stages(cfg) is not None)
        ),
        configs=configs,
        throughput=throughput and reader.relative(throughput),
        controls=controls,
        pretrain=pretrain,
    )


def _planned_run(
    reader: SuiteFile,
    set_name: str,
    model: str,
    seed: int,
    plan: tuple[str, tuple[str, ...]],
    cfg: CfgNode,
    *,
    controls: Sequence[str],
    without: bool,
    resume: bool,
    gpus: int,
    pretrain: str,
    kept: str,
    prepare: Sequence[str],
) -> Run:
    config, words = plan
    key = run_key(set_name, model, seed, without)
    if without:
        cfg = config_without(cfg)
        words += (IDLE_STAGES, json.dumps(cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES))
    folder = os.path.join(reader.output, "runs", key)
    settings: dict[str, object] = {PREPARE: list(prepare)} if kept else {}
    weights = command = ""
    if pretrain:
        if cfg.MODEL.WEIGHTS:
            raise reader.error(
                f"models.{model}: MODEL.WEIGHTS {cfg.MODEL.WEIGHTS!r} beside pretrain, whose "
                "weights a run starts from; leave one of them out"
            )
        weights = os.path.join(folder, PRETRAINED_FILE)
        command = reader.for_run(pretrain, config, weights, (*words, "SEED", str(seed)))
        settings[PRETRAIN] = pretrain
        words += ("MODEL.WEIGHTS", weights)
    return Run(
        model,
        set_name,
        seed,
        config,
        words,
        folder=folder,
        resume=resume,
        gpus=gpus,
        without=without,
        zeroed=not without and ZEROED in controls and idle_stages(cfg) is not None,
        pretrain=command,
        weights=weights,
        kept=kept and os.path.join(kept, f"{key}.json"),
        settings=reader.settings(cfg) | settings,
    )
