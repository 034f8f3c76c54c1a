"""Wheel and sdist: what they hold, and that the wheel alone works, outside of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import lambda_det
from lambda_det import configs

CHECKOUT_ONLY = {
    "batch_mates", "benchmark", "benchmark_evaluation", "chaos", "corpus", "fuzz", "pretrain_gain",
    "record_run", "soak", "visualize_lambdas",
}  # fmt: skip
BUILD = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"


@pytest.fixture(scope="module")
def built(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Suffix -> file, built in a copy: a build leaves its own files beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("wheel") / "project"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lambda_det", "configs", "tools", "docs", "studies"):
        shutil.copytree(project / name, copy / name, ignore=unwanted)
    for path in project.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    (copy / "tests").mkdir()
    (copy / "tests" / "__init__.py").touch()  # not to be taken for a package of ours
    (copy / "tests" / "test_it.py").touch()  # setuptools puts such into an sdist by itself
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in (copy / "dist").iterdir()}


@pytest.fixture(scope="module")
def site(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[".whl"]) as wheel:
        wheel.extractall(folder)
    return folder


def run_python(site: Path, project: Path, *words: str) -> subprocess.CompletedProcess:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and Path(path).resolve() != project]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *others])},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_wheel_holds_the_package_with_configs_and_tools(site: Path, project: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in paths if "__pycache__" not in path.parts}

    found = files(site / "lambda_det")
    shipped = {name.removeprefix("shipped/") for name in found if name.startswith("shipped/")}
    assert {name for name in found if not name.startswith("shipped/")} == files(
        project / "lambda_det"
    )
    assert "py.typed" in found
    tools = {f"tools/{path.name}" for path in (project / "tools").glob("*.py")}
    tools -= {f"tools/{name}.py" for name in CHECKOUT_ONLY}
    assert shipped == {f"configs/{name}" for name in files(project / "configs")} | tools
    (info,) = site.glob("*.dist-info")
    names = {"lambda_det", "lambda_det_command.py", info.name}
    assert {path.name for path in site.iterdir()} == names  # no studies
    for path in (site / "lambda_det" / "shipped" / "tools").iterdir():
        assert "from studies." not in path.read_text(encoding="utf-8"), path.name
    assert (info / "licenses" / "LICENSE").read_bytes() == (project / "LICENSE").read_bytes()


def test_metadata_says_what_the_package_says(site: Path, project: Path) -> None:
    (info,) = site.glob("*.dist-info")
    metadata = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == lambda_det.__version__
    assert info.name == f"lambda_det-{lambda_det.__version__}.dist-info"
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload().strip() == readme.strip()
    assert "lambda_det = lambda_det_command:main" in (info / "entry_points.txt").read_text()


def test_sdist_has_what_the_wheel_is_built_from(built: dict[str, Path]) -> None:
    with tarfile.open(built[".gz"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    with zipfile.ZipFile(built[".whl"]) as wheel:
        own = [n for n in wheel.namelist() if n.startswith("lambda_det")]
    own = [n for n in own if ".dist-info/" not in n]
    # What the wheel's build reads is there; a file that is not would be missing in its wheel.
    assert {name.replace("lambda_det/shipped/", "") for name in own} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert not any(name.startswith(("tests", "studies", "results", "output")) for name in names)


CODE = """
import lambda_det, lambda_det.configs as c
cfg = lambda_det.get_config("mask_rcnn_lambda_R_101_FPN_lsj")
print(lambda_det.__file__, c.config_path("retinanet_lambda_R_101_FPN_3x"), sep="\\n")
print(cfg.MODEL.LAMBDA_RESNET.DEPTH, cfg.INPUT.LSJ.ENABLED, len(c.config_names()))
from lambda_det import project
from lambda_det.analysis.published import load_published
from lambda_det.comparison import read_suite
from lambda_det.comparison.collect import PUBLISHED
print(len(read_suite("paper_coco", "out").runs), list(load_published(PUBLISHED)))
print(project.tool_command("train_net", []), project.results_folder())
from lambda_det.doctor import TOOL
print(TOOL.format("train_net"))
import lambda_det_command
lambda_det_command.main()
"""


def test_the_wheel_alone_knows_its_configs_and_tools(site: Path, project: Path) -> None:
    said = run_python(site, project, "-c", CODE)
    assert said.returncode == 0, said.stderr
    module, path, numbers, suite, words, said_by_doctor, usage, *listed = (
        said.stdout.strip().splitlines()
    )
    assert Path(module) == site / "lambda_det" / "__init__.py"
    assert Path(path).is_relative_to(site) and Path(path).is_file()
    assert numbers == f"101 True {len(configs.config_names())}" and suite == "6 ['mask_rcnn']"
    assert words == f"python -m lambda_det train_net {site.parent / 'results'}"
    assert said_by_doctor == "lambda_det train_net"

    assert usage.startswith("usage: lambda_det TOOL")
    names = {line.split()[0] for line in listed}
    assert names == {path.stem for path in (project / "tools").glob("*.py")} - CHECKOUT_ONLY
    assert any("  train_net  " in line and "Train or evaluate" in line for line in listed)


def test_a_tool_of_the_wheel_runs(site: Path, project: Path) -> None:
    words = ["--config-file", "mask_rcnn_lambda_R_50_FPN_shapes_cpu", "SOLVER.BASE_LR", "fast"]
    said = run_python(site, project, "-m", "lambda_det", "train_net", *words)
    assert said.returncode == 2 and "SOLVER.BASE_LR" in said.stderr, said.stderr
    assert said.stderr.count("\n") == 1
