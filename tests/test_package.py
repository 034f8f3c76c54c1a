"""The package as a whole: what it imports, what it says when something is missing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lambda_det

PACKAGE = Path(lambda_det.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))

SHARED = {"errors", "compat", "randomness", "io", "records", "shipped_configs", "version"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere, relative ones resolved."""
    folder = ("lambda_det", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*folder[: len(folder) - node.level + 1], base)).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else ""


def test_the_scan_finds_the_package() -> None:
    names = {name_of(path) for path in FILES}
    assert {"__init__.py", "layers/lambda_layer.py", "backbone/build.py", "config.py"} <= names
    found = set(imports(PACKAGE / "backbone" / "blocks.py"))
    assert any(name.startswith("lambda_det.layers") for name in found)
    assert any(name.startswith("detectron2.") for name in found)


def test_layers_import_nothing_of_detectron2() -> None:
    for path in (PACKAGE / "layers").rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            # Triton comes with PyTorch where there is one, and is imported at the first call only.
            if top == "triton" and path.stem in {"triton_kernels", "triton_fused"}:
                continue
            assert top in {*sys.stdlib_module_names, "torch", "torchvision", "lambda_det"}, (
                f"{name_of(path)} imports {name}"
            )
            if top == "lambda_det":
                assert room(name) in {"layers", *SHARED}, f"{name_of(path)} imports {name}"


def test_no_version_is_compared() -> None:
    for path in FILES:
        for name in imports(path):
            assert name.split(".")[0] not in ("packaging", "distutils", "pkg_resources"), name
        if path.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for part in ast.walk(node) if isinstance(node, ast.Compare) else ():
                word = getattr(part, "attr", None) or getattr(part, "id", None) or ""
                assert "version" not in word.lower(), f"{name_of(path)}:{node.lineno}: {word}"


def test_files_are_short_and_quiet() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 320, name_of(path)
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        printed = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
        if path.parent.name == "commands":
            continue
        for call in printed:  # only a tool's error line, which goes to stderr
            streams = [k.value.attr for k in call.keywords if k.arg == "file"]
            assert path.name == "errors.py" and streams == ["stderr"], name_of(path)


def test_only_builders_read_the_config() -> None:
    for folder, exempt in (("layers", ()), ("backbone", ("build.py",))):
        for path in (PACKAGE / folder).rglob("*.py"):
            if path.name in exempt:
                continue
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            words = {n.id for n in tree if isinstance(n, ast.Name)}
            assert "cfg" not in words, name_of(path)
            assert not any(n.startswith("detectron2.config") for n in imports(path))


def run_python(code: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600
    )


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_import_without_detectron2_says_how_to_get_it() -> None:
    result = run_python(BLOCKER.format(blocked="detectron2") + "import lambda_det")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(("ModuleNotFoundError: ", "ImportError: "))
    assert "lambda_det needs detectron2" in last
    assert "https://detectron2.readthedocs.io" in last and "install_detectron2" in last


@pytest.mark.slow
def test_another_missing_package_is_not_blamed_on_detectron2() -> None:
    result = run_python(BLOCKER.format(blocked="torch") + "import lambda_det")
    assert result.returncode == 1
    assert "No module named 'torch" in result.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_import_registers_the_backbones_and_stays_light() -> None:
    code = """
import sys, lambda_det
from detectron2.modeling import BACKBONE_REGISTRY
names = ["backbone", "fpn_backbone"]
assert all(f"build_lambda_resnet_{name}" in BACKBONE_REGISTRY for name in names)
assert "build_retinanet_lambda_resnet_fpn_backbone" in BACKBONE_REGISTRY
print([n for n in ("detectron2.model_zoo", "lambda_det.data", "lambda_det.engine",
    "lambda_det.evaluation", "matplotlib.pyplot", "tensorboard") if n in sys.modules])
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_public_names() -> None:
    from lambda_det.backbone import build_lambda_resnet
    from lambda_det.layers import LambdaLayer, position_lambda

    assert callable(lambda_det.add_lambda_config) and callable(lambda_det.get_cfg)
    assert callable(build_lambda_resnet) and callable(position_lambda)
    assert isinstance(LambdaLayer, type)
    assert {"add_lambda_config", "get_cfg"} <= set(lambda_det.__all__)


def test_a_test_module_has_a_name_of_its_own(project) -> None:
    # The folders of tests are no packages: pytest cannot import two modules of one name.
    names = [path.name for path in (project / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
