"""The suites of photographs: equal recipes, open branches, one line for a folder of one's own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_backbone

from lambda_det.backbone import lambda_resnet_arguments
from lambda_det.comparison.suite import Suite, read_suite
from lambda_det.configs import load_config
from lambda_det.pretrain.keys import get_pretrain_cfg
from studies.evidence import image_parts

EVIDENCE = Path(image_parts.__file__).parent
PROJECT = EVIDENCE.parents[1]
SUITES = ("nuclei", "nuclei_rates", "nuclei_50", "nuclei_pretrained", "coco_tiny")
VARIANT = "MODEL.LAMBDA_RESNET.VARIANT"


def suite_of(name: str, output: Path) -> Suite:
    return read_suite(str(EVIDENCE / f"{name}.yaml"), str(output))


@pytest.mark.parametrize("name", SUITES)
def test_the_networks_differ_in_their_variant_alone(name, tmp_path):
    suite = suite_of(name, tmp_path)
    for set_name in suite.sets:
        settings = {
            run.model: {k: v for k, v in run.settings.items() if k != VARIANT}
            for run in suite.runs
            if run.set == set_name and not run.without
        }
        assert [*settings] == ["resnet", "se", "lambda"]
        assert settings["resnet"] == settings["se"] == settings["lambda"]
    variants = [
        suite.configs[next(iter(suite.sets)), m].MODEL.LAMBDA_RESNET.VARIANT for m in settings
    ]
    assert variants == ["resnet", "se", "lambda"]
    assert {run.settings["MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL"] for run in suite.runs} == {False}
    assert {Path(run.kept).relative_to(EVIDENCE / "runs").parts[0] for run in suite.runs} == {name}


@pytest.mark.parametrize("name", SUITES)
def test_no_suite_names_a_folder_of_this_machine(name, tmp_path):
    suite = suite_of(name, tmp_path)
    folders = {run.settings["DATASETS.COCO_FOLDER"] for run in suite.runs}
    assert folders == {"{output}/few" if name == "coco_tiny" else ""}


def test_seeds_and_controls(tmp_path):
    for name, seeds, runs in (
        ("nuclei", 3, 18), ("nuclei_pretrained", 3, 9), ("nuclei_50", 1, 3), ("coco_tiny", 1, 6)
    ):  # fmt: skip
        suite = suite_of(name, tmp_path)
        assert (len(suite.seeds), len(suite.runs)) == (seeds, runs), name
        both = name in ("nuclei", "coco_tiny")
        assert suite.controls == (("zeroed", "trained_without") if both else ("zeroed",)), name
    first = [run.seed for run in suite_of("nuclei", tmp_path).runs[:6]]
    assert first == [1] * 6, "all models and controls of a seed come before the next seed"
    rates = suite_of("nuclei_rates", tmp_path)
    own = suite_of("nuclei", tmp_path).configs["nuclei", "resnet"].SOLVER.BASE_LR
    low, high = (rates.configs[name, "resnet"].SOLVER.BASE_LR for name in rates.sets)
    assert low < own < high


def test_no_run_uses_embeddings_that_training_never_meets(tmp_path):
    """On the coarsest map of a training crop all offsets of the window occur."""
    suite = suite_of("nuclei", tmp_path)
    cfg = suite.configs["nuclei", "lambda"]
    positions = cfg.INPUT.LSJ.SIZE[0] // 32
    assert positions - 1 >= cfg.MODEL.LAMBDA_RESNET.LAYER.SCOPE // 2


def test_one_line_of_the_document_changes_the_folder(tmp_path):
    """With it the settings are the same, and no run counts as finished for those of the nuclei."""
    page = (PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8")
    lines = re.findall(r"^  (?:nuclei|mine): \{label: .*$", page, re.MULTILINE)
    before, after = lines
    text = (EVIDENCE / "nuclei.yaml").read_text(encoding="utf-8")
    assert text.count(before) == 1
    text = text.replace("config: ", f"config: {EVIDENCE}/").replace("keep: ", f"keep: {EVIDENCE}/")
    path = tmp_path / "nuclei.yaml"
    path.write_text(text.replace(before, after), encoding="utf-8")
    mine, nuclei = read_suite(str(path), str(tmp_path / "out")), suite_of("nuclei", tmp_path)
    assert [*mine.sets.values()] == ["mine"] and len(mine.runs) == len(nuclei.runs)
    kept = {run.kept for run in nuclei.runs}
    for own, other in zip(mine.runs, nuclei.runs, strict=True):
        assert own.settings["DATASETS.COCO_FOLDER"] == "/data/mine" and own.kept not in kept
        assert {**own.settings, "DATASETS.COCO_FOLDER": ""} == other.settings


def test_each_run_starts_from_a_backbone_of_its_own_kind(tmp_path):
    """Backbone and seed of each pretraining are those of its run, also without the branches."""
    suite = suite_of("nuclei_pretrained", tmp_path)
    for run in suite.runs:
        command = shlex.split(run.pretrain.partition(" && ")[0])
        start = command.index("--config-file") + 1
        cfg = load_config(
            str(PROJECT / command[start]), command[start + 1 :], defaults=get_pretrain_cfg()
        )
        detector = load_config(run.config, [*run.overrides, "MODEL.WEIGHTS", ""])
        assert run.seed == cfg.SEED
        made, wanted = (lambda_resnet_arguments(each) for each in (cfg, detector))
        assert {**made, "mask_padding": 0} == {**wanted, "mask_padding": 0}, run.key


def test_without_their_branches_se_and_lambda_are_one_network(tmp_path):
    """So the difference of their trainings without branches shows the noise."""
    suite = suite_of("nuclei", tmp_path)
    networks = []
    for model in ("se", "lambda"):
        run = next(run for run in suite.runs if run.model == model and run.without)
        networks.append(build_backbone(suite.config_of(run)).eval())
    se, lambda_ = networks
    own = lambda_.state_dict()
    shared = {n: t for n, t in se.state_dict().items() if n in own and own[n].shape == t.shape}
    lambda_.load_state_dict(shared, strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = lambda_(image)
        assert all(torch.equal(value, features[name]) for name, value in se(image).items())
    live = {name for name, p in lambda_.named_parameters() if name not in shared}
    assert live and all(re.search(r"res[45]\.\d+\.", name) for name in live)
