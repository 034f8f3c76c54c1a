"""lambda_det.configs: shipped configs and suites by name, and the reading of YAML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

import lambda_det
from lambda_det import configs, shipped_configs
from lambda_det.comparison import read_suite
from lambda_det.configs import load_config, read_config
from lambda_det.errors import InputError
from lambda_det.records import IN_CHECKOUT, tool_words
from lambda_det.shipped_configs import ROOT

LSJ = "COCO-InstanceSegmentation/mask_rcnn_lambda_R_101_FPN_lsj"
QUICK = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"


def test_every_leaf_file_has_a_name(project: Path) -> None:
    assert IN_CHECKOUT and project == ROOT
    files = {
        path.relative_to(project / "configs") for path in (project / "configs").rglob("*.yaml")
    }
    leaves = {str(path.with_suffix("")) for path in files}
    hidden = {name for name in leaves if name.split("/")[0] in ("_base", "published")}
    assert {*configs.config_names(), *configs.suite_names()} == leaves - hidden
    assert LSJ in configs.config_names() and "suites/quick_cpu" in configs.suite_names()


@pytest.mark.parametrize(
    "name", [LSJ, LSJ.split("/")[1], f"{LSJ}.yaml", f"configs/{LSJ}.yaml"], ids=range(4)
)
def test_a_config_by_name_is_that_of_its_file(
    name: str, project: Path, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(project / "configs" / f"{LSJ}.yaml")
    assert configs.config_path(name) == path == configs.find_config(name)
    assert lambda_det.get_config(name) == load_config(path) == load_config(name)
    assert lambda_det.get_config(name).INPUT.LSJ.ENABLED
    assert not lambda_det.get_config(name).is_frozen()


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    (tmp_path / name).write_text("SEED: 7\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_config(name).SEED == 7 and configs.find_config(name) == name
    assert configs.find_config("") == ""
    assert lambda_det.get_config(name).SEED == 1  # the shipped one, whatever lies here


def test_a_folder_does_not_hide_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = QUICK.split("/")[1]
    for name in (short, "other"):
        (tmp_path / name).mkdir()
    assert configs.find_config(short) == configs.config_path(short)
    assert configs.find_config("other") == "other"
    with pytest.raises(InputError, match="other"):
        load_config("other")


@pytest.mark.parametrize(
    "name, says",
    [
        ("mask_rcnn_lambda_R_101_FPN_ljs", LSJ),
        ("lambda_R_101_350", "pretrain/lambda_R_101_350ep"),
        ("qwertz", "expected one of "),
        ("pretrain/lambda_R_101_350ep", "pretraining"),
    ],
)
def test_an_unknown_name_is_one_line(name: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^config '") as error:
        lambda_det.get_config(name)
    assert repr(name) in str(error.value) and says in str(error.value)
    assert "\n" not in str(error.value)


def test_of_two_with_a_name_neither_is_taken(tmp_path: Path, monkeypatch) -> None:
    for folder in ("quick", "pretrain"):
        (tmp_path / "configs" / folder).mkdir(parents=True)
        (tmp_path / "configs" / folder / "same.yaml").touch()
    monkeypatch.setattr(shipped_configs, "CONFIGS", tmp_path / "configs")
    with pytest.raises(InputError, match=r"'same' can be pretrain/same or quick/same"):
        configs.config_path("same")
    assert configs.config_path("quick/same") == str(tmp_path / "configs/quick/same.yaml")
    monkeypatch.setattr(shipped_configs, "CONFIGS", tmp_path / "gone")
    with pytest.raises(InputError, match="does not exist"):
        configs.config_path("same")


@pytest.mark.parametrize(
    "value, says",
    [
        ("none.yaml", "no such file"),
        ("none", "no such file, and no shipped config has that name"),
        ("quick/mask_rcnn_lambda_R_50_FPN_shape_cpu", f"near it: {QUICK}"),
    ],
)
def test_a_tool_says_what_it_looked_for(value: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(value)
    assert str(error.value).startswith(f"--config-file {value}: ") and says in str(error.value)


def test_suites_and_their_configs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_suite("quick_cpu", str(tmp_path / "out")).runs) == 12
    own = tmp_path / "own.yaml"
    own.write_text(
        f"baseline: a\nseeds: [1]\ncontrols: []\nmodels: {{a: {{config: {QUICK}}}}}\n",
        encoding="utf-8",
    )
    (run,) = read_suite(str(own), str(tmp_path / "out")).runs
    assert run.config == configs.config_path(QUICK)
    own.write_text("baseline: a\nseeds: [1]\nmodels: {a: {config: quik}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"models\.a: .*quik: no such file.*'quik'"):
        read_suite(str(own), str(tmp_path / "out"))
    with pytest.raises(
        InputError, match=r"suite quick_cpus cannot be read: no such file.*near it.*quick_cpu"
    ):
        read_suite("quick_cpus", str(tmp_path / "out"))


EVAL = "!!python/object/apply:eval"


def write(folder: Path, **files: str) -> str:
    """Path of the file ``c.yaml``, of those that were written."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return str(folder / "c.yaml")


def test_bases_in_a_list_and_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", a="_BASE_: ../b.yaml\nSEED: 1\nSOLVER: {GAMMA: 0.5}")
    path = write(
        tmp_path,
        b="SOLVER: {MAX_ITER: 7, BASE_LR: 0.25}",
        d="SOLVER: {MAX_ITER: 8}",
        c="_BASE_: [more/a.yaml, d.yaml]\nSEED: 3",
    )
    cfg, expected = load_config(path), lambda_det.get_cfg()
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (8, 0.25, 3)
    expected.merge_from_file(path, allow_unsafe=False)  # detectron2's own reader
    assert cfg == expected
    assert [sorted(content) for _, content in read_config(path)] == [
        ["SOLVER"], ["SEED", "SOLVER"], ["SOLVER"], ["SEED"]
    ]  # fmt: skip


def test_files_of_a_chain_are_read_once(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    opened = []
    local_path = configs.PathManager.get_local_path
    monkeypatch.setattr(
        configs.PathManager, "get_local_path", lambda path: opened.append(path) or local_path(path)
    )
    load_config(LSJ, ["SEED", "3"])
    names = [Path(path).resolve().relative_to(project / "configs").as_posix() for path in opened]
    assert names == [f"{LSJ}.yaml", "_base/mask_rcnn_fpn_lsj.yaml", "_base/mask_rcnn_fpn.yaml"]


@pytest.mark.parametrize(
    "text, base, says",
    [
        ("_BASE_: c.yaml", "", "_BASE_ {c} (of {c}): the file is based on itself"),
        ("_BASE_: b.yaml", "_BASE_: c.yaml", "_BASE_ {c} (of {b}): the file is based on itself"),
        ("_BASE_: a.yaml", "", "_BASE_ {a} (of {c}): cannot be read (No such file or directory)"),
        ("_BASE_: 5", "", "--config-file {c}: _BASE_ 5 is not the name of a file"),
        ("_BASE_: b.yaml", "- MODEL", "_BASE_ {b} (of {c}): the top level is a list; expected"),
        ("_BASE_: b.yaml", "SOLVER: {MAX_ITR: 5}",
         "_BASE_ {b} (of {c}): Non-existent key: SOLVER.MAX_ITR; near it: SOLVER.MAX_ITER"),
        ("MODEL: {LAMBDA_RESNET: {LAYER: {SKOPE: 7}}}", "",
         "--config-file {c}: Non-existent key: MODEL.LAMBDA_RESNET.LAYER.SKOPE; near it: "
         "MODEL.LAMBDA_RESNET.LAYER.SCOPE"),
        ("VERSION: 1", "", "--config-file {c}: VERSION=1: expected 2"),
        ("MODEL: {RPN: 5}", "", "--config-file {c}: MODEL.RPN=5: expected keys and values"),
        ("SEED: {A: 5}", "", "--config-file {c}: SEED={'A': 5}: expected a value without keys"),
        ("5: 6", "", "--config-file {c}: key 5 is not a string"),
        ("SEED: many", "", "--config-file {c}: Type mismatch (<class 'int'> vs. <class 'str'>)"),
        ("SEED: 2026-01-01", "", "--config-file {c}: Key SEED with value <class 'datetime.date'>"),
        ("MODEL: {", "", "--config-file {c}: the file is not valid YAML: "),
        ("", "", "--config-file {c}: the top level is a NoneType; expected keys"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_that_names_it(
    tmp_path: Path, text: str, base: str, says: str
) -> None:
    path = write(tmp_path, c=text, b=base)
    with pytest.raises(InputError) as error:
        load_config(path)
    for name in "abc":
        says = says.replace(f"{{{name}}}", str(tmp_path / f"{name}.yaml"))
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tagged",
    [
        f"{EVAL} [\"__import__('os').mkdir('ran')\"]", f"{EVAL} ['[[32, 64]]']", f"{EVAL} [1, 2]",
        f"{EVAL} {{args: ['1']}}", f"{EVAL} [[1]]", "!!python/object/new:eval ['1']",
        "!!python/name:builtins.eval ''", "!!python/tuple [1]",
        "!!python/object/apply:os.mkdir ['ran']",
    ],
)  # fmt: skip
def test_a_file_with_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagged: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, b=f"OUTPUT_DIR: {tagged}", c="_BASE_: b.yaml")
    with pytest.raises(InputError, match=r"b\.yaml .*: the file is refused \(.*\); only plain"):
        load_config(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "overrides, says",
    [
        ("SEED", "KEY VALUE pairs: 'SEED' has an odd number of items"),
        ("SOLVER.MAXITER 5", "KEY VALUE pairs: Non-existent key: SOLVER.MAXITER; near it: SOLVER."),
        ("SEED.A 5", "KEY VALUE pairs: SEED={'A': '5'}: expected a value without keys"),
        ("SOLVER 5", "KEY VALUE pairs: SOLVER='5': expected keys and values"),
        ("SEED many", "KEY VALUE pairs: Type mismatch"),
    ],
)
def test_a_wrong_pair_is_one_line(overrides: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_config("", overrides.split())
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_changed_keys_are_those_that_matter() -> None:
    cfg = lambda_det.get_cfg()
    saved = cfg.dump()
    cfg.merge_from_list(["SEED", "3", "SOLVER.MAX_ITER", "5", "INPUT.MIN_SIZE_TRAIN", "(8,)"])
    cfg.NEW = 1
    changes = ["INPUT.MIN_SIZE_TRAIN: [800] -> [8]", "SEED: -1 -> 3"]
    assert configs.changed_values(saved, cfg.dump(), ("SOLVER.MAX",)) == changes
    more = [*changes, "SOLVER.MAX_ITER: 40000 -> 5"]
    assert configs.changed_values(saved, cfg.dump()) == more


def test_a_key_of_an_earlier_version_is_read_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("TEST: {SANITY_IMAGES: 8, EVAL_PERIOD: 3}\n", encoding="utf-8")
    cfg = load_config(str(path), ["TEST.SANITY_IMAGES", "2"])
    assert cfg.TEST.EVAL_PERIOD == 3 and "SANITY_IMAGES" not in cfg.TEST


def test_tools_are_named_as_they_are_started() -> None:
    assert tool_words("train_net") == ["python", os.path.join("tools", "train_net.py")]


LAYER = "MODEL.LAMBDA_RESNET.LAYER"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["SCOPE", "23"], [f"{LAYER}.SCOPE 23"]),
        (["NUM_HEADS", "4", "QUERY_DEPTH", "16"], [f"{LAYER}.QUERY_DEPTH 16, {LAYER}.NUM_HEADS 4"]),
        (["SCOPE", "5"], []),
        (["SCOPE", "23", "KIND", "lambda"], []),
        (["SCOPE", "23", "OWN_DEFAULTS", "False"], []),
        (["SCOPE", "23", "KIND", "depthwise"], []),  # its own default, too
        (["NUM_HEADS", "4", "KIND", "depthwise"], []),  # it has no heads
        ([], []),
    ],
    ids=str,
)
@pytest.mark.parametrize("from_file", [False, True])
def test_a_value_that_is_not_taken_is_named(words, wanted, from_file, tmp_path, caplog) -> None:
    """It was said to be what the lambda layer has, for which another kind has its own default."""
    pairs = ["KIND", "local_attention", *words]
    file, overrides = "", [f"{LAYER}.{w}" if n % 2 == 0 else w for n, w in enumerate(pairs)]
    if from_file:
        node = {k: yaml.safe_load(v) for k, v in zip(pairs[::2], pairs[1::2], strict=True)}
        file, overrides = str(tmp_path / "c.yaml"), []
        content = {"MODEL": {"LAMBDA_RESNET": {"LAYER": node}}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    cfg = load_config(file, overrides)
    assert [r.getMessage().partition(": ")[0] for r in caplog.records] == wanted
    caplog.clear()
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    load_config(str(tmp_path / "dump.yaml"))
    assert not caplog.records
    if cfg.MODEL.LAMBDA_RESNET.LAYER.KIND == "local_attention":
        load_config(str(tmp_path / "dump.yaml"), [f"{LAYER}.SCOPE", "23"])
        assert len(caplog.records) == cfg.MODEL.LAMBDA_RESNET.LAYER.OWN_DEFAULTS
