"""tools/install_detectron2.py: the two bases, their source fixes and hashes, what it installed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(project: Path) -> ModuleType:
    path = project / "tools" / "install_detectron2.py"
    spec = importlib.util.spec_from_file_location("install_detectron2", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def installed() -> importlib.metadata.Distribution:
    """The detectron2 that is imported, where the script installed it as a distribution."""
    try:
        distribution = importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("detectron2 is not installed as a distribution")
    import detectron2

    if not Path(detectron2.__file__).samefile(distribution.locate_file("detectron2/__init__.py")):
        pytest.skip(f"detectron2 is imported from {detectron2.__file__}")
    if not distribution.version.endswith("+pure"):
        pytest.skip(f"detectron2 {distribution.version} was not installed by the script")
    return distribution


@pytest.fixture(scope="module")
def base(installed: importlib.metadata.Distribution, script: ModuleType):
    """The row of the table that the installed one was made from."""
    return script.BASES[installed.version.removesuffix("+pure")]


def write(package: Path, name: str, text: str) -> Path:
    path = package / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


NUMPY_BEFORE = (
    "# Copyright\nx = [np.bool, np.int, np.float, np.str, np.int64, np.float32, np.bool_]\n"
)


def test_numpy_fix_replaces_only_the_removed_names(script, tmp_path):
    path = write(tmp_path, "a.py", NUMPY_BEFORE)
    fix = script.Fix(
        script.FIXES_OF_V05[0].reason, script.FIXES_OF_V05[0].pattern, r"\1", {"a.py": 4}
    )
    script.apply_fix(tmp_path, fix)
    assert "x = [bool, int, float, str, np.int64, np.float32, np.bool_]\n" in path.read_text()


def test_a_modified_file_says_so_once(script, tmp_path):
    path = write(tmp_path, "a.py", NUMPY_BEFORE)
    script.apply_fix(tmp_path, script.Fix("first", r"np\.bool\b", "bool", {"a.py": 1}))
    script.apply_fix(tmp_path, script.Fix("second", r"np\.int\b", "int", {"a.py": 1}))
    assert path.read_text().splitlines()[:2] == [script.MODIFIED, "# Copyright"]
    assert path.read_text().count(script.MODIFIED) == 1


@pytest.mark.parametrize("expected", [3, 5])
def test_an_unexpected_number_of_places_is_an_error(script, tmp_path, expected):
    path = write(tmp_path, "a.py", NUMPY_BEFORE)
    fix = script.Fix("numpy names", script.FIXES_OF_V05[0].pattern, r"\1", {"a.py": expected})
    with pytest.raises(
        script.InstallError, match=rf"numpy names.*a\.py has 4 .*expected {expected}"
    ):
        script.apply_fix(tmp_path, fix)
    assert path.read_text() == NUMPY_BEFORE


def test_model_zoo_rows_make_one_expression(script, tmp_path):
    source = (
        "import os\nimport pkg_resources\n\n"
        "    cfg_file = pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n'
    )
    path = write(tmp_path, "model_zoo/model_zoo.py", source)
    for fix in script.BASES["0.7.2"].fixes:
        script.apply_fix(tmp_path, fix)
    text = path.read_text()
    assert "pkg_resources" not in text
    assert 'str(importlib.resources.files(__package__) / "configs" / config_path)' in text


def test_the_norm_that_takes_a_batch_without_regions_gets_its_name(script, tmp_path):
    before = (
        "    norm = {\n"
        '        "naiveSyncBN": NaiveSyncBatchNorm,\n'
        '        "nnSyncBN": nn.SyncBatchNorm,\n'
        "    }[name]\n"
    )
    path = write(tmp_path, "layers/batch_norm.py", before)
    script.apply_fix(tmp_path, script.FIXES_OF_V05[5])
    line = (
        '        "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),\n'
    )
    place = before.index('        "nnSyncBN"')
    assert path.read_text() == f"{script.MODIFIED}\n{before[:place]}{line}{before[place:]}"


@pytest.mark.parametrize("version", ["0.7.2", "0.5"])
def test_an_altered_archive_is_refused_before_it_is_unpacked(script, tmp_path, version):
    base = script.BASES[version]
    archive = tmp_path / base.archive
    archive.write_bytes(b"something else")
    with pytest.raises(script.InstallError, match=f"sha256 .* expected {base.sha256}"):
        script.unpack(base, archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_the_wheel_nothing_compiled_is_kept(script, tmp_path):
    """Its library is for one release of Python and of torch; detectron2 does without."""
    archive = tmp_path / "wheel.whl"
    names = ("detectron2/_C.cpython-310-x86_64-linux-gnu.so", "detectron2/__init__.py")
    with zipfile.ZipFile(archive, "w") as file:
        for name in (*names, "sal_detectron2-0.7.2.dist-info/LICENSE"):
            file.writestr(name, name)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    base = dataclasses.replace(script.BASES["0.7.2"], sha256=sha256)
    tree = script.unpack(base, archive, tmp_path / "out")
    assert [path.name for path in (tree / "detectron2").iterdir()] == ["__init__.py"]
    assert (tree / "LICENSE").is_file()


def test_of_the_sdist_the_projects_become_modules(script, tmp_path):
    archive = tmp_path / "sdist.tar.gz"
    base = script.BASES["0.5"]
    root = tmp_path / base.archive.removesuffix(".tar.gz")
    write(root, "detectron2/projects/__init__.py", "")
    write(root, "projects/PointRend/point_rend/__init__.py", "")
    write(root, "projects/PointRend/train_net.py", "")
    with tarfile.open(archive, "w:gz") as file:
        file.add(root, root.name)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    tree = script.unpack(dataclasses.replace(base, sha256=sha256), archive, tmp_path / "out")
    assert (tree / "detectron2/projects/point_rend/__init__.py").is_file()
    assert (tree / "detectron2/_C.py").read_text() == script.STUB


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"something else", None])
def test_command_line_gives_one_line(project, tmp_path, content):
    archive = tmp_path / "archive.tar.gz"
    if content is not None:
        archive.write_bytes(content)
    command = [sys.executable, "tools/install_detectron2.py", "--archive", str(archive)]
    command += ["--target", str(tmp_path / "out")]  # whatever detectron2 there is
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert str(archive) in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("installed", ["0.6", "0.5+cu111"])
def test_another_detectron2_is_left_alone(script, monkeypatch, tmp_path, installed):
    monkeypatch.setattr(importlib.metadata, "version", {"detectron2": installed}.get)
    with pytest.raises(script.InstallError, match=rf"detectron2 {re.escape(installed)} is already"):
        script.check_environment("0.7.2", None)
    script.check_environment("0.7.2", tmp_path)  # a folder beside it replaces nothing


def test_its_own_detectron2_is_replaced(script, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"detectron2": "0.5+pure"}.get)
    script.check_environment("0.7.2", None)


@pytest.mark.slow
def test_the_check_leaves_setuptools_usable(project):
    code = (
        "import install_detectron2 as script; script.check_environment('0.7.2', None)\n"
        "import setuptools, torch.utils.cpp_extension"
    )
    tools = project / "tools"
    result = subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, text=True)
    # Another detectron2 than the script's own stops the check, which comes after the one of pip.
    assert result.returncode == 0 or "InstallError: detectron2" in result.stderr, result.stderr


def test_a_missing_package_is_named(script, monkeypatch):
    monkeypatch.setattr(
        importlib.metadata.Distribution,
        "discover",
        lambda name: iter(() if name == "torchvision" else ("found",)),
    )
    with pytest.raises(script.InstallError, match="lacks torchvision; install"):
        script.check_environment("0.7.2", None)


def test_the_stand_in_names_the_operator_that_is_missing(script):
    module = ModuleType("detectron2._C")
    exec(compile(script.STUB, "_C.py", "exec"), module.__dict__)
    with pytest.raises(AttributeError, match=r"_C\.box_iou_rotated .*built with a compiler"):
        module.box_iou_rotated(1, 2)
    with pytest.raises(AttributeError, match=r"_C\.COCOevalAccumulate .*use_fast_impl=False"):
        module.COCOevalAccumulate()
    assert not module.has_cuda()


def test_installed_metadata(installed, base):
    files = {str(file) for file in installed.files}
    for name in ("LICENSE", "NOTICE"):
        assert any(re.search(rf"\.dist-info/.*{name}$", file) for file in files), name
    assert "detectron2/model_zoo/configs/Base-RCNN-FPN.yaml" in files
    assert "detectron2/projects/point_rend/__init__.py" in files
    requirements = " ".join(installed.requires)
    assert "fvcore" in requirements and "black" not in requirements
    notice = next(file for file in installed.files if file.name == "NOTICE").read_text()
    for fact in (base.sha256, *(fix.reason for fix in base.fixes)):
        assert fact in notice


def test_installed_sources_hold_no_removed_name(installed):
    removed = re.compile(r"\bnp\.(bool|int|float|str)\b|\bImage\.LINEAR\b|\bpkg_resources\b")
    sources = [file for file in installed.files if file.suffix == ".py"]
    assert len(sources) > 150
    left = [str(file) for file in sources if removed.search(file.read_text(encoding="utf-8"))]
    assert left == []
    assert [file for file in installed.files if file.suffix == ".so"] == []


def test_model_zoo_finds_its_configs(installed):
    from detectron2 import model_zoo

    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    assert Path(model_zoo.get_config_file(name)).is_file()
    assert model_zoo.get_config(name).MODEL.MASK_ON
