"""lambda_det.configs: shipped configs and suites by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import lambda_det
from lambda_det import configs
from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError
from lambda_det.experiments import read_suite
from lambda_det.records import IN_CHECKOUT, tool_words

LSJ = "COCO-InstanceSegmentation/mask_rcnn_lambda_R_101_FPN_lsj"
QUICK = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"


def test_every_leaf_file_has_a_name(project: Path) -> None:
    assert IN_CHECKOUT and project == configs.ROOT
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
        ("qwertz", "there are "),
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
    monkeypatch.setattr(configs, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"'same': may be pretrain/same or quick/same"):
        configs.config_path("same")
    assert configs.config_path("quick/same") == str(tmp_path / "configs/quick/same.yaml")
    monkeypatch.setattr(configs, "ROOT", tmp_path / "gone")
    with pytest.raises(InputError, match="is not there"):
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


def test_tools_are_named_as_they_are_started() -> None:
    assert tool_words("train_net") == ["python", os.path.join("tools", "train_net.py")]
