"""tools/setup_env.sh: what it refuses, each in one line and before anything is installed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")]


@pytest.fixture
def checkout(project: Path, tmp_path: Path) -> Path:
    """As much of a checkout, without .venv, as the set-up looks at."""
    root = tmp_path / "checkout"
    for name in (
        "tools/setup_env.sh",
        "tools/install_detectron2.py",
        "setup.py",
        "pyproject.toml",
        "lambda_det/version.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, root / name)
    return root


def program(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_DET_")}
    return subprocess.run(
        ["bash", str(checkout / "tools" / "setup_env.sh"), "run"],
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


OLD_PYTHON = """
case "$2" in *platform*) echo "Python 3.8.18" ;; *) echo False ;; esac
"""


def test_a_python_that_is_too_old(checkout, tmp_path):
    python = program(tmp_path / "old", OLD_PYTHON)
    result = run(checkout, LAMBDA_DET_PYTHON=str(python))
    assert_one_line(result, "LAMBDA_DET_PYTHON", str(python), "Python 3.8.18", "3.10 to")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("name", ["no/such/python", "true", "false"])
def test_a_python_that_is_none(checkout, name):
    assert_one_line(run(checkout, LAMBDA_DET_PYTHON=name), "LAMBDA_DET_PYTHON", name, "3.10 to")
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv(checkout, tmp_path):
    script = f'case "$2" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"'
    python = program(tmp_path / "bare", script)
    result = run(checkout, LAMBDA_DET_PYTHON=str(python))
    assert_one_line(result, str(python), "python3-venv", "LAMBDA_DET_PYTHON")
    assert not (checkout / ".venv").exists()


def test_a_full_disk(checkout, tmp_path):
    program(tmp_path / "bin" / "df", 'echo Filesystem\necho "/dev/x 100 50 3000000 5% /"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = run(checkout, PATH=path, LAMBDA_DET_PYTHON=sys.executable)
    assert_one_line(result, "3 GB are free", str(checkout), "8 GB", "LAMBDA_DET_DISK_GB")
    assert not (checkout / ".venv").exists()


def test_disk_space_that_is_no_number(checkout):
    result = run(checkout, LAMBDA_DET_DISK_GB="plenty", LAMBDA_DET_PYTHON=sys.executable)
    assert_one_line(result, "LAMBDA_DET_DISK_GB=plenty")


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("LAMBDA_DET_DETECTRON2", "0.6", "neither 0.7.2 nor 0.5"),
        ("LAMBDA_DET_TORCH", "2.3", "from 2.4 on"),
        ("LAMBDA_DET_TORCH", "2.14.1", "from 2.4 on"),
        ("LAMBDA_DET_TORCH", "newest", "from 2.4 on"),
    ],
)
def test_a_release_that_it_does_not_install(checkout, variable, value, allowed):
    result = run(checkout, **{variable: value, "LAMBDA_DET_PYTHON": sys.executable})
    assert_one_line(result, f"{variable}={value}", allowed)
    assert not (checkout / ".venv").exists()


PIP_ASIDE = """
case "$*" in
    *"pip install setuptools"*) echo "ERROR: asked for $*"; exit 1 ;;
    "-m venv "*) mkdir -p "$3/bin"; echo "$3" > "$3/bin/activate"; cp "$0" "$3/bin/python" ;;
    *) exec {python} "$@" ;;
esac
"""


@pytest.mark.parametrize(
    ("release", "pair"),
    [
        ("", "torch==2.14.1 torchvision==0.29.1"),
        ("2.4", "torch==2.4.* torchvision==0.19.*"),
        ("2.10", "torch==2.10.* torchvision==0.25.*"),
    ],
)
def test_torch_and_torchvision_belong_together(checkout, tmp_path, release, pair):
    python = program(tmp_path / "python", PIP_ASIDE.format(python=sys.executable))
    variables = {"LAMBDA_DET_PYTHON": str(python), "LAMBDA_DET_DISK_GB": "0"}
    result = run(checkout, **variables, LAMBDA_DET_TORCH=release)
    assert_one_line(result, f"asked for -m pip install setuptools>=77 {pair} (details")


def test_no_network(checkout):
    """Making .venv succeeds; pip finds nobody at its index, and no stamp is left."""
    result = run(
        checkout,
        LAMBDA_DET_PYTHON=sys.executable,
        LAMBDA_DET_DISK_GB="0",
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/",
        PIP_FIND_LINKS="",
        PIP_EXTRA_INDEX_URL="",
        PIP_RETRIES="0",
    )
    assert_one_line(result, "index", str(checkout / ".venv-setup.log"))
    assert not (checkout / ".venv" / "complete.stamp").exists()


@pytest.mark.parametrize("kind", ["nothing there", "a folder without a Python"])
def test_an_environment_that_is_none(checkout, tmp_path, kind):
    path = tmp_path / "environment"
    if kind != "nothing there":
        path.mkdir()
    result = run(checkout, LAMBDA_DET_ENV=str(path))
    assert_one_line(result, f"LAMBDA_DET_ENV={path}", "neither a Python nor")


def fake_modules(folder: Path, *broken: str) -> Path:
    """A folder for PYTHONPATH with an empty module for everything asked for, some of it broken."""
    folder.mkdir()
    names = (
        "torch torchvision detectron2 numpy cv2 fvcore jinja2 matplotlib psutil pycocotools scipy "
        "shapely tabulate yaml"
    )
    for name in names.split():
        text = f"raise ImportError('no {name} today')\n" if name in broken else ""
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_an_environment_without_torchvision_and_detectron2(checkout, tmp_path):
    modules = fake_modules(tmp_path / "modules", "torchvision", "detectron2", "shapely")
    result = run(checkout, LAMBDA_DET_ENV=sys.executable, PYTHONPATH=str(modules))
    assert_one_line(result, sys.executable, "no torchvision today", "no detectron2 today")
    assert "shapely" not in result.stderr


def test_an_environment_without_light_packages(checkout, tmp_path):
    modules = fake_modules(tmp_path / "modules", "shapely", "cv2")
    result = run(checkout, LAMBDA_DET_ENV=sys.executable, PYTHONPATH=str(modules))
    assert_one_line(result, "no shapely today", "pip install opencv-python shapely")


def test_an_environment_is_used_as_it_is(checkout, tmp_path):
    """PYTHONPATH of the user comes first, the checkout is added, nothing is written."""
    before = sorted(checkout.rglob("*"))
    modules = fake_modules(tmp_path / "modules")
    script = 'source "$1" run; echo "$env_python"; echo "$PYTHONPATH"; pwd'
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LAMBDA_DET_")}
    result = subprocess.run(
        ["bash", "-c", script, "bash", str(checkout / "tools" / "setup_env.sh")],
        env={**environment, "LAMBDA_DET_ENV": sys.executable, "PYTHONPATH": str(modules)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    root = str(checkout.resolve())
    assert result.stdout.splitlines() == [sys.executable, f"{modules}:{root}", root]
    assert sorted(checkout.rglob("*")) == before
