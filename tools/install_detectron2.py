#!/usr/bin/env python3
"""Installs detectron2 0.5 into the running Python, without a compiler.

detectron2 is not on the package index under its own name. The source archive of `detectron2-cdo`
0.5 holds the Python files and model-zoo configs of upstream v0.5 unchanged, but not the C++
sources, so its own build fails. This script downloads that archive with pip, checks its sha256,
applies the source fixes listed in `FIXES`, adds a stand-in for the compiled module, and installs
the result with pip as the distribution `detectron2`, version 0.5+pure. `pip show`, `pip uninstall`
and `pip check` see it like any other.

torch, torchvision and setuptools have to be installed already (the archive's own setup.py imports
torch when pip reads its metadata).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.5+pure"  # a local version label: upstream's 0.5, modified
REQUIREMENT = "detectron2-cdo==0.5"
ARCHIVE = "detectron2_cdo-0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"

# Upstream's list, without its upper bound on iopath and without black==21.4b2, which only
# LazyConfig.to_py uses and which cannot be installed beside current packages.
REQUIREMENTS = [
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.6",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "future",
    "pydot",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
]


class InstallError(Exception):
    """Why the installation stopped; the text is one line."""


@dataclass(frozen=True)
class Fix:
    """One change of the sources: every match of ``pattern`` in ``files`` (path: matches)."""

    reason: str
    pattern: str
    replacement: str
    files: dict[str, int]


FIXES = (
    Fix(
        reason="numpy 1.24 removed its aliases of the builtin types",
        pattern=r"\bnp\.(bool|int|float|str)\b",
        replacement=r"\1",
        files={
            "data/build.py": 2,
            "data/datasets/pascal_voc.py": 1,
            "evaluation/pascal_voc_evaluation.py": 2,
            "evaluation/sem_seg_evaluation.py": 7,
            "structures/masks.py": 2,
            "utils/video_visualizer.py": 1,
            "utils/visualizer.py": 3,
        },
    ),
    Fix(
        reason="Pillow 10 removed Image.LINEAR, an alias of Image.BILINEAR",
        pattern=r"\bImage\.LINEAR\b",
        replacement="Image.BILINEAR",
        files={"data/transforms/transform.py": 1},
    ),
    Fix(
        reason="setuptools 81 removed pkg_resources (the import)",
        pattern=r"^import pkg_resources$",
        replacement="import importlib.resources",
        files={"model_zoo/model_zoo.py": 1},
    ),
    Fix(
        reason="setuptools 81 removed pkg_resources (its use)",
        pattern=(
            r"pkg_resources\.resource_filename\(\s*"
            r'"detectron2\.model_zoo", os\.path\.join\("configs", config_path\)\s*\)'
        ),
        replacement='str(importlib.resources.files(__package__) / "configs" / config_path)',
        files={"model_zoo/model_zoo.py": 1},
    ),
    Fix(
        reason="the fast COCO evaluator is compiled, so the official one becomes the default",
        pattern=r"\buse_fast_impl=True\b",
        replacement="use_fast_impl=False",
        files={"evaluation/coco_evaluation.py": 2},
    ),
    Fix(
        reason="detectron2 v0.6's name of the synchronised norm that takes a batch without regions",
        pattern=r'^( +)"naiveSyncBN": NaiveSyncBatchNorm,$',
        replacement=(
            r"\g<0>\n"
            r'\1"naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),'
        ),
        files={"layers/batch_norm.py": 1},
    ),
)

MODIFIED = "# Modified by lambda_det's tools/install_detectron2.py: see NOTICE beside LICENSE."

STUB = '''\
"""Stand-in for detectron2's compiled module, added by lambda_det: importable, without operators.

Boxes and masks do not need it: NMS and RoIAlign come from torchvision.
"""


def get_compiler_version() -> str:
    return "none (0.5+pure: Python only)"


def get_cuda_version() -> str:
    return "not available"


def has_cuda() -> bool:
    return False


def _missing(name: str, advice: str):
    text = f"detectron2._C.{name} is compiled and this detectron2 is Python only (0.5+pure)"

    def operator(*args, **kwargs):
        raise NotImplementedError(f"{text}: {advice}")

    operator.__name__ = name
    return operator


_BUILD = "for rotated boxes and deformable convolutions install a detectron2 built with a compiler"
_EVALUATE = "pass use_fast_impl=False to COCOEvaluator"

for _name in (
    "box_iou_rotated",
    "deform_conv_backward_filter",
    "deform_conv_backward_input",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
):
    globals()[_name] = _missing(_name, _BUILD)
for _name in ("COCOevalAccumulate", "COCOevalEvaluateImages", "InstanceAnnotation"):
    globals()[_name] = _missing(_name, _EVALUATE)
'''

SETUP = """\
from setuptools import find_packages, setup

PROJECTS = {{
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}}

setup(
    name="detectron2",
    version="{version}",
    description="detectron2 0.5, Python only, with fixes for current numpy, Pillow and setuptools",
    url="https://github.com/facebookresearch/detectron2",
    author="FAIR",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    packages=find_packages(include=["detectron2", "detectron2.*"]) + list(PROJECTS),
    package_dir=PROJECTS,
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    python_requires=">=3.10",
    install_requires={requirements!r},
)
"""


def check_environment() -> None:
    """Raises InstallError when something needed is missing or another detectron2 would be hit."""
    needed = ("pip", "setuptools", "torch", "torchvision")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise InstallError(f"{sys.executable} has no {', '.join(missing)}; install that first")
    try:
        installed = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return
    if installed != VERSION:
        raise InstallError(
            f"detectron2 {installed} is already installed in {sys.prefix}; lambda_det can use it "
            f"(to have {VERSION} instead, first run: {sys.executable} -m pip uninstall detectron2)"
        )


def run_pip(*arguments: str) -> None:
    """Runs pip of this Python; its output is passed through."""
    command = [sys.executable, "-m", "pip", *arguments]
    if status := subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise InstallError(f"pip {arguments[0]} ended with status {status}; its lines are above")


def download(folder: Path) -> Path:
    """Downloads the source archive with pip, which checks the hash before it runs anything."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    run_pip(
        *("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(folder)),
    )
    return folder / f"{ARCHIVE}.tar.gz"


def unpack(archive: Path, folder: Path) -> Path:
    """Checks the archive's sha256 and unpacks it below ``folder``; returns the source tree."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise InstallError(f"{archive} has sha256 {found}, expected {SHA256}; nothing installed")
    # The filter came with Python 3.10.12 and 3.11.4; the hash vouches for the names without it.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **options)
    return folder / ARCHIVE


def apply_fix(package: Path, fix: Fix) -> None:
    """Applies one row; raises InstallError unless each file has the expected number of matches."""
    for name, expected in fix.files.items():
        path = package / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        text, found = re.subn(fix.pattern, fix.replacement, text, flags=re.MULTILINE)
        if found != expected:
            raise InstallError(
                f"source fix not applied ({fix.reason}): detectron2/{name} has {found} places "
                f"that match, expected {expected}"
            )
        if MODIFIED not in text:  # section 4(b) of the licence: modified files say so
            text = f"{MODIFIED}\n{text}"
        path.write_text(text, encoding="utf-8")


def notice() -> str:
    """The NOTICE file: what was changed and why, as section 4 of the Apache License asks."""
    lines = [
        f"detectron2 {VERSION}",
        "Copyright (c) Facebook, Inc. and its affiliates. Apache License 2.0, see LICENSE.",
        "",
        f"Made by lambda_det's tools/install_detectron2.py from {ARCHIVE}.tar.gz",
        f"(sha256 {SHA256}),",
        "which holds the Python files of detectron2 v0.5. Changes to the sources:",
        "",
    ]
    for fix in FIXES:
        lines.append(f"- {fix.reason}: detectron2/" + ", detectron2/".join(fix.files))
    lines += [
        "- added: detectron2/_C.py, a stand-in for the compiled module, which is not built",
        "- replaced: setup.py, with relaxed requirements",
    ]
    return "\n".join(lines) + "\n"


def modify(tree: Path) -> None:
    """Turns the unpacked archive into the sources of ``detectron2`` 0.5+pure, in place."""
    for fix in FIXES:
        apply_fix(tree / "detectron2", fix)
    setup = SETUP.format(version=VERSION, requirements=REQUIREMENTS)
    (tree / "setup.py").write_text(setup, encoding="utf-8")
    (tree / "detectron2" / "_C.py").write_text(STUB, encoding="utf-8")
    (tree / "NOTICE").write_text(notice(), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--archive", type=Path, help=f"use this {ARCHIVE}.tar.gz; no download")
    options = parser.parse_args(arguments)
    try:
        check_environment()
        with tempfile.TemporaryDirectory(prefix="install-detectron2-") as name:
            tree = unpack(options.archive or download(Path(name)), Path(name))
            modify(tree)
            # --use-pep517: pip before 23.1 would run setup.py install, which leaves no RECORD.
            run_pip("install", "--no-build-isolation", "--use-pep517", str(tree))
    except (InstallError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
