"""The configs that are shipped: each builds its model, and compared rows differ in nothing else."""

from __future__ import annotations

import functools
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.config import get_cfg as get_stock_cfg
from detectron2.modeling import build_model
from recipe_facts import RECIPES, as_json, facts, knows_norm, on_meta, recorded
from stock_mask_rcnn import stock_config

from lambda_det.backbone import LambdaResNet
from lambda_det.config import flat
from lambda_det.configs import load_config
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIPPED = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.relative_to(CONFIGS).parts[0] not in ("_base", "pretrain", "published", "suites")
)
MASK_RCNN = CONFIGS / "COCO-InstanceSegmentation"
TIMM = MASK_RCNN / "mask_rcnn_se_R_101_FPN_3x_timm.yaml"
NAMES = {"resnet": "R", "se": "se_R", "lambda": "lambda_R", "lambda_full": "lambda_full_R"}
NODE = "MODEL.LAMBDA_RESNET"
PER_EPOCH = 118_000  # images of train2017 with objects, as detectron2 counts them

NEWER = {
    "DATALOADER.REPEAT_SQRT": (True, "RepeatFactorTrainingSampler alone; v0.5 takes the root"),
    "FLOAT32_PRECISION": ("", "leaves PyTorch's precision as it is"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": (0.5, "of USE_FED_LOSS alone"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": (50, "of USE_FED_LOSS alone"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False, "v0.5 has no federated loss"),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False, "v0.5 takes the softmax"),
    "SOLVER.BASE_LR_END": (0.0, "the cosine of v0.5 ends at 0"),
    "SOLVER.NUM_DECAYS": (3, "of WarmupStepWithFixedGammaLR alone"),
    "SOLVER.RESCALE_INTERVAL": (False, "v0.5 cuts the warm-up out of the schedule, too"),
}
"""Keys that v0.5 lacks: their default, and why it changes nothing."""


@functools.cache
def keys_of(path: Path) -> dict[str, Any]:
    return flat(load_config(str(path)))


def differences(first: Path, second: Path) -> set[str]:
    one, two = keys_of(first), keys_of(second)
    return {key for key in one | two if one.get(key, "absent") != two.get(key, "absent")}


def recipe_of(path: Path) -> str:
    return Path(yaml.safe_load(path.read_text(encoding="utf-8"))["_BASE_"]).stem


def short(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


# Rows of a recipe differ in variant and depth alone, so that each pair of these is built once.
BUILT = {
    (recipe_of(p) if d == 101 and v == "lambda" else "", v, d): p
    for p in SHIPPED
    for v, d in [(keys_of(p)[f"{NODE}.VARIANT"], keys_of(p)[f"{NODE}.DEPTH"])]
} | {("timm",): TIMM}


@pytest.mark.parametrize("path", sorted(BUILT.values()), ids=short)
def test_builds_its_model(path: Path) -> None:
    cfg, model = on_meta(str(path))
    backbone = model.backbone.bottom_up
    assert isinstance(backbone, LambdaResNet)
    blocks = [len(getattr(backbone, stage)) for stage in backbone.stage_names]
    assert sum(blocks) == {50: 16, 101: 33, 152: 50}[cfg.MODEL.LAMBDA_RESNET.DEPTH]
    has_lambda = any(name.endswith("lambda_layer.embedding") for name in model.state_dict())
    assert has_lambda == cfg.MODEL.LAMBDA_RESNET.VARIANT.startswith("lambda")
    frozen = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
    # A ResNet that is fine-tuned has all of detectron2's network, which froze as much.
    assert frozen <= ({"stem", "res2"} if path.stem.endswith("_R_50_FPN_finetune") else {"stem"})


def test_leaves_are_short_and_have_folders_of_their_own() -> None:
    for path in SHIPPED:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 12 and recipe_of(path), path
    folders = [keys_of(path)["OUTPUT_DIR"] for path in SHIPPED]
    assert len(set(folders)) == len(SHIPPED)


def names_in(word: str) -> set[str]:
    """``a_{b,c}_{1,2}`` -> its four names."""
    parts = re.split(r"\{([^}]*)\}", word)
    choices = [part.split(",") if n % 2 else [part] for n, part in enumerate(parts)]
    return {"".join(chosen) for chosen in itertools.product(*choices)}


def test_documents_list_every_config_once() -> None:
    pages = ((CONFIGS.parent / "docs" / name) for name in ("training.md", "weights.md"))
    rows = "\n".join(page.read_text(encoding="utf-8") for page in pages).splitlines()
    cells = [row.split("|")[1] for row in rows if re.match(r"\| `[\w./{},-]+\.yaml`", row)]
    words = [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]
    listed = [name for word in words for name in names_in(word)]
    pretraining = (CONFIGS / "pretrain").glob("*.yaml")  # built by tests/pretrain
    assert sorted(listed) == sorted(map(short, [*SHIPPED, *pretraining]))


def test_rows_of_a_recipe_differ_in_what_they_compare() -> None:
    rows = {}
    for path in (path for path in SHIPPED if path != TIMM and path.parent.name != "quick"):
        rows.setdefault(recipe_of(path), []).append(path)
    for recipe, paths in rows.items():
        for path, other in itertools.product(paths, paths):
            one, two = keys_of(path), keys_of(other)
            compared = {f"{NODE}.VARIANT", f"{NODE}.DEPTH", "OUTPUT_DIR"}
            is_loaded = recipe.endswith("_3x") or "_finetune" in recipe
            if one[f"{NODE}.DEPTH"] != two[f"{NODE}.DEPTH"] and is_loaded:
                compared |= {"MODEL.WEIGHTS"}
            assert differences(path, other) <= compared, (path.stem, other.stem)
        for path in paths:
            keys = keys_of(path)
            name = f"{NAMES[keys[f'{NODE}.VARIANT']]}_{keys[f'{NODE}.DEPTH']}_FPN_"
            assert path.stem == Path(keys["OUTPUT_DIR"]).name
            if recipe.endswith("_3x") and keys["MODEL.MASK_ON"]:
                assert keys["MODEL.WEIGHTS"] == f"torchvision://resnet{keys[f'{NODE}.DEPTH']}"
            own = re.sub("_finetune.*", "_finetune", recipe)
            assert path.stem == own.replace("_fpn_", f"_{name}")
    all_of = {(v, d) for v in ("resnet", "se", "lambda") for d in (50, 101, 152)}
    for recipe, wanted in (
        ("lsj", {*all_of, ("lambda_full", 101)}),
        ("lsj_paper", {(v, d) for v, d in all_of if d > 50}),
        ("3x", all_of),
        ("finetune", {("resnet", 50), ("resnet", 101)}),
        ("finetune_partial", {("se", 50), ("se", 101)}),
        ("finetune_lambda", {("lambda", 50), ("lambda", 101)}),
    ):
        keys = [keys_of(path) for path in rows[f"mask_rcnn_fpn_{recipe}"]]
        assert {(k[f"{NODE}.VARIANT"], k[f"{NODE}.DEPTH"]) for k in keys} == wanted
    assert differences(TIMM, MASK_RCNN / "mask_rcnn_se_R_101_FPN_3x.yaml") == {
        "MODEL.WEIGHTS", f"{NODE}.STEM", "OUTPUT_DIR"
    }  # fmt: skip


def test_the_recipes_are_the_same_on_every_detectron2() -> None:
    """Keys of detectron2's own, and what the optimiser does with each parameter, are those that
    were written down on v0.5; what the running version has besides changes nothing."""
    record, found = recorded(), facts()
    stock = set(flat(get_stock_cfg()))
    more = {key: value for key, value in found["keys"].items() if key in NEWER}
    assert more == {key: value for key, (value, _) in NEWER.items() if key in stock}
    found["keys"] = {key: value for key, value in found["keys"].items() if key not in more}
    assert found["keys"] == record["keys"]
    assert found["recipes"].keys() == record["recipes"].keys() == set(RECIPES)
    for name, recipe in record["recipes"].items():
        assert found["recipes"][name] == as_json(recipe), name


def test_weights_alone_are_decayed() -> None:
    for name, recipe in recorded()["recipes"].items():
        decayed = {s: kinds for s, kinds in recipe["optimizer"].items() if "weight_decay" in s}
        (kinds,) = decayed.values()
        assert kinds.keys() == {"embedding", "weight", "sha256"}, name
        others = [kinds for said, kinds in recipe["optimizer"].items() if said not in decayed]
        assert [kinds.keys() - {"sha256"} for kinds in others] == [{"bias", "weight"}]


def test_a_detectron2_without_the_norm_says_what_to_take(monkeypatch) -> None:
    cfg = load_config("mask_rcnn_lambda_R_50_FPN_lsj", ["MODEL.DEVICE", "meta"])
    check_values(cfg)
    if knows_norm():
        return
    line = r"^MODEL\.ROI_BOX_HEAD\.NORM='naiveSyncBN_N': the installed detectron2 does not.*'GN'"
    with pytest.raises(InputError, match=line):
        build_model(cfg)


def test_lsj_is_detectron2s_recipe() -> None:
    for words, times in (("", 1), ("_200ep", 2), ("_400ep", 4)):
        cfg = load_config(f"mask_rcnn_R_101_FPN_lsj{words}")
        assert cfg.MODEL.WEIGHTS == "" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
        assert cfg.MODEL.LAMBDA_RESNET.STEM == "rs" and cfg.MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL
        assert cfg.INPUT.LSJ.ENABLED
        solver = cfg.SOLVER
        epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / PER_EPOCH
        assert epochs == pytest.approx(100 * times)
        # 163889 and 177546 of 184375, and the first 500: of any length, as detectron2's multiplier
        assert tuple(solver.STEPS) == (163889 * times, 177546 * times)
        assert (500 * times, 0.067) == (solver.WARMUP_ITERS, solver.WARMUP_FACTOR)
        assert (solver.BASE_LR, solver.WEIGHT_DECAY) == (0.1, 4e-5)


def test_fine_tuning_is_detectron2s_network_and_images() -> None:
    """Every key of the model that detectron2 reads has the value of its own config, and those of
    ours that have a counterpart there have its value."""
    for depth, variant in itertools.product((50, 101), ("R", "se_R", "lambda_R")):
        keys = keys_of(MASK_RCNN / f"mask_rcnn_{variant}_{depth}_FPN_finetune.yaml")
        theirs = flat(stock_config(depth))
        free = {"MODEL.BACKBONE.NAME", "MODEL.BACKBONE.FREEZE_AT", "MODEL.WEIGHTS", "MODEL.DEVICE"}
        compared = {k for k in theirs if re.match(r"MODEL\.(?!RESNETS)|INPUT\.FORMAT", k)} - free
        assert len(compared) > 60
        assert {k: keys[k] for k in compared} == {k: theirs[k] for k in compared}
        assert keys[f"{NODE}.STRIDE_IN_1X1"] is theirs["MODEL.RESNETS.STRIDE_IN_1X1"] is True
        digest = {50: "137849600/model_final_f10217", 101: "138205316/model_final_a3ec72"}[depth]
        zoo = "detectron2://COCO-InstanceSegmentation"
        assert keys["MODEL.WEIGHTS"] == f"{zoo}/mask_rcnn_R_{depth}_FPN_3x/{digest}.pkl"
        assert keys[f"{NODE}.STEM"] == "v1"
        assert keys["MODEL.BACKBONE.FREEZE_AT"] == (2 if variant == "R" else 1)
        assert keys[f"{NODE}.PARTIAL_INIT"] is (variant != "R")
        # The file's norms have no statistics of their own, and new norms must not be frozen.
        trained = (keys[f"{NODE}.NORM"], keys[f"{NODE}.MEASURE_NORMS"])
        assert trained == (("SyncBN", 64) if variant == "lambda_R" else ("FrozenBN", 0))
        assert keys[f"{NODE}.PARTIAL_INIT_AS_IDENTITY"] is (variant == "lambda_R")
        usual = 0.02 * keys["SOLVER.IMS_PER_BATCH"] / 16
        assert keys["SOLVER.BASE_LR"] <= usual and keys["SOLVER.MAX_ITER"] < 90_000


def test_paper_recipe_is_scaled_to_its_batch() -> None:
    cfg = load_config("mask_rcnn_lambda_R_101_FPN_lsj_paper")
    solver, part = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH / 256
    assert pytest.approx(0.32 * part) == solver.BASE_LR and solver.WEIGHT_DECAY == 4e-5
    assert (130_000 / part, 1000 / part) == (solver.MAX_ITER, solver.WARMUP_ITERS)
    assert [step / solver.MAX_ITER for step in solver.STEPS] == [0.9, 0.95, 0.975]
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1024, 1024)
    assert tuple(cfg.INPUT.LSJ.SCALE) == (0.1, 2.0) and tuple(cfg.INPUT.LSJ.SIZE) == (1024, 1024)
    different = differences(
        MASK_RCNN / "mask_rcnn_R_101_FPN_lsj.yaml", MASK_RCNN / "mask_rcnn_R_101_FPN_lsj_paper.yaml"
    )
    assert {key.partition(".")[0] for key in different} == {"INPUT", "SOLVER", "TEST", "OUTPUT_DIR"}


def test_long_recipes_are_careful() -> None:
    """bfloat16, a few steps that may be left out, and about ten evaluations, each of weights that
    a checkpoint has. On a CPU nothing of it is needed, and branches start open."""
    for path in SHIPPED:
        keys, is_quick = keys_of(path), path.parent.name == "quick"
        assert keys[f"{NODE}.ZERO_INIT_RESIDUAL"] != is_quick and not keys[f"{NODE}.IDLE_STAGES"]
        careful = keys["SOLVER.AMP.ENABLED"], keys["SOLVER.MAX_SKIPPED_STEPS"]
        assert careful == ((False, 0) if is_quick else (True, 10))
        if not is_quick:
            period = keys["TEST.EVAL_PERIOD"]
            assert keys["SOLVER.AMP.PRECISION"] == "bfloat16"
            assert 9 <= math.ceil(keys["SOLVER.MAX_ITER"] / period) <= 11
            assert period % keys["SOLVER.CHECKPOINT_PERIOD"] == 0


def test_published_numbers_stand_beside_the_papers_recipe_alone() -> None:
    found = set()
    for path in (CONFIGS / "suites").glob("*.yaml"):
        suite = yaml.safe_load(path.read_text(encoding="utf-8"))
        for model in suite["models"].values():
            if "published" in model:
                found.add(recipe_of(path.parent / model["config"]))
    assert found == {"mask_rcnn_fpn_lsj_paper"}
