#!/usr/bin/env python3
"""Install detectron2's Python files into the running Python, without a compiler.

detectron2 is not on the package index under its own name, but others have published its sources
there. This script downloads one of the archives in `BASES` with pip, checks its sha256, removes
what is compiled, applies the source fixes listed for it, and installs the result with pip as the
distribution `detectron2`. `pip show`, `pip uninstall` and `pip check` see it like any other.

  0.7.2 (the default)  upstream's main branch of April 2024
  0.5                  upstream's release v0.5 of July 2021

torch, torchvision and setuptools have to be installed already. Another detectron2 is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

LABEL = "+pure"  # the local version label of what this script installs

# Upstream's list, without black, which only LazyConfig.to_py uses, and without upper bounds on
# iopath and omegaconf. v0.5 also lists future and pydot, which its Python files do not import.
REQUIREMENTS = [
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "packaging",
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


MODEL_ZOO_FIXES = (
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
)
FIXES_OF_V05 = (
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
    *MODEL_ZOO_FIXES,
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


@dataclass(frozen=True)
class Base:
    """A published archive with the Python files of detectron2, and what has to change in them."""

    content: str
    requirement: str
    archive: str
    sha256: str
    fixes: tuple[Fix, ...]


BASES = {
    "0.7.2": Base(
        content="the Python files of upstream's main branch of April 2024, three of 154 altered",
        requirement="sal-detectron2==0.7.2",
        archive="sal_detectron2-0.7.2-cp310-none-any.whl",
        sha256="491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561",
        fixes=MODEL_ZOO_FIXES,
    ),
    "0.5": Base(
        content="the Python files of upstream's release v0.5",
        requirement="detectron2-cdo==0.5",
        archive="detectron2_cdo-0.5.tar.gz",
        sha256="53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18",
        fixes=FIXES_OF_V05,
    ),
}

MODIFIED = "# Modified by lambda_det's tools/install_detectron2.py: see NOTICE beside LICENSE."

# v0.5 imports the compiled module where later versions try to; NMS and RoIAlign are torchvision's.
STUB = '''\
"""Stand-in for detectron2's compiled module, added by lambda_det: importable, without operators."""

ADVICE = {
    "COCOevalAccumulate": "pass use_fast_impl=False to COCOEvaluator",
    "COCOevalEvaluateImages": "pass use_fast_impl=False to COCOEvaluator",
    "InstanceAnnotation": "pass use_fast_impl=False to COCOEvaluator",
}


def get_compiler_version() -> str:
    return "none (Python only)"


def get_cuda_version() -> str:
    return "not available"


def has_cuda() -> bool:
    return False


def __getattr__(name: str):
    advice = ADVICE.get(name, "install a detectron2 that was built with a compiler")
    text = f"detectron2._C.{name} is compiled, and this detectron2 is Python only: {advice}"
    raise AttributeError(text)
'''

SETUP = """\
from setuptools import find_packages, setup

setup(
    name="detectron2",
    version={version!r},
    description="detectron2, Python only, with fixes for current numpy, Pillow and setuptools",
    url="https://github.com/facebookresearch/detectron2",
    author="FAIR",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    packages=find_packages(include=["detectron2", "detectron2.*"]),
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    python_requires=">=3.10",
    install_requires={requirements!r},
)
"""


def check_environment(version: str, target: Path | None) -> None:
    """Raises InstallError if a package is missing or another detectron2 would be replaced."""
    needed = ("pip", "setuptools", "torch", "torchvision")
    # By metadata: asking for the module pip makes setuptools fail to import in this process.
    discover = importlib.metadata.Distribution.discover
    missing = [name for name in needed if next(iter(discover(name=name)), None) is None]
    if missing:
        raise InstallError(
            f"{sys.executable} lacks {', '.join(missing)}; install what is missing first"
        )
    try:
        installed = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return
    if target is None and not installed.endswith(LABEL):
        raise InstallError(
            f"detectron2 {installed} is already installed in {sys.prefix}; lambda_det can use it "
            f"(to have {version} instead, first run: {sys.executable} -m pip uninstall detectron2)"
        )


def run_pip(*arguments: str) -> None:
    """Runs pip of this Python, whose output is printed; raises InstallError if it fails."""
    command = [sys.executable, "-m", "pip", *arguments]
    if status := subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        raise InstallError(
            f"pip {arguments[0]} ended with status {status}; its messages are printed above"
        )


def download(base: Base, folder: Path) -> Path:
    """Downloads the archive with pip, which checks its hash before it runs any of its code."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{base.requirement} --hash=sha256:{base.sha256}\n", encoding="utf-8")
    if base.archive.endswith(".whl"):  # its name says 3.10, but its Python files suit every Python
        kind = ["--only-binary", ":all:", "--python-version", "3.10"]
    else:
        kind = ["--no-binary", ":all:", "--no-build-isolation"]
    run_pip(
        *("download", "--no-deps", *kind, "--require-hashes"),
        *("--requirement", str(requirements), "--dest", str(folder)),
    )
    return folder / base.archive


def unpack(base: Base, archive: Path, folder: Path) -> Path:
    """Checks the archive's sha256 and unpacks it below ``folder``; returns the source tree, which
    contains detectron2/ and LICENSE and no compiled file."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != base.sha256:
        raise InstallError(f"{archive} has sha256 {found}, expected {base.sha256}")
    if base.archive.endswith(".whl"):
        shutil.unpack_archive(archive, folder, "zip")
        (license_file,) = folder.glob("*.dist-info/LICENSE")
        license_file.rename(folder / "LICENSE")
        for library in folder.glob("detectron2/*.so"):  # for one release of Python and torch
            library.unlink()
        return folder
    # Python has the filter since 3.10.12 and 3.11.4; without it, the hash vouches for the names.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(archive, folder, "gztar", **options)
    tree = folder / base.archive.removesuffix(".tar.gz")
    for project in tree.glob("projects/*/*/__init__.py"):  # upstream's setup.py moves them there
        project.parent.rename(tree / "detectron2" / "projects" / project.parent.name)
    (tree / "detectron2" / "_C.py").write_text(STUB, encoding="utf-8")
    return tree


def apply_fix(package: Path, fix: Fix) -> None:
    """Applies a fix; raises InstallError unless each file has the expected number of matches."""
    for name, expected in fix.files.items():
        path = package / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        text, found = re.subn(fix.pattern, fix.replacement, text, flags=re.MULTILINE)
        if found != expected:
            raise InstallError(
                f"source fix not applied ({fix.reason}): detectron2/{name} has {found} "
                f"matches, expected {expected}"
            )
        if MODIFIED not in text:  # section 4(b) of the licence asks for this notice
            text = f"{MODIFIED}\n{text}"
        path.write_text(text, encoding="utf-8")


def notice(version: str, base: Base) -> str:
    """The NOTICE file: what was changed and why, as section 4 of the Apache License asks."""
    changes = [f"{fix.reason}: detectron2/" + ", detectron2/".join(fix.files) for fix in base.fixes]
    changes += [
        "the compiled module detectron2/_C is left out; v0.5 has a stand-in",
        "setup.py is replaced, with relaxed requirements",
    ]
    return (
        f"detectron2 {version}{LABEL}\n"
        "Copyright (c) Facebook, Inc. and its affiliates. Apache License 2.0, see LICENSE.\n\n"
        f"Made by lambda_det's tools/install_detectron2.py from {base.archive}\n"
        f"(sha256 {base.sha256}),\n"
        f"which holds {base.content}. Changes:\n\n"
    ) + "".join(f"- {change}\n" for change in changes)


def modify(version: str, base: Base, tree: Path) -> None:
    """Turns the unpacked archive into the sources of the distribution ``detectron2``, in place."""
    for fix in base.fixes:
        apply_fix(tree / "detectron2", fix)
    setup = SETUP.format(version=version + LABEL, requirements=REQUIREMENTS)
    (tree / "setup.py").write_text(setup, encoding="utf-8")
    (tree / "NOTICE").write_text(notice(version, base), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        *("version",),
        nargs="?",
        choices=BASES,
        default="0.7.2",
        help="version of detectron2 to install (default: %(default)s)",
    )
    parser.add_argument(
        "--archive", type=Path, help="install from this file instead of downloading it"
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="DIR",
        help="install into this folder, for PYTHONPATH, and leave the environment as it is",
    )
    options = parser.parse_args(arguments)
    version, base, target = options.version, BASES[options.version], options.target
    try:
        check_environment(version, target)
        with tempfile.TemporaryDirectory(prefix="install-detectron2-") as name:
            folder = Path(name)
            tree = unpack(base, options.archive or download(base, folder), folder / "sources")
            modify(version, base, tree)
            place = [] if target is None else ["--no-deps", "--upgrade", "--target", str(target)]
            # --use-pep517: pip before 23.1 would run setup.py install, which leaves no RECORD.
            run_pip("install", "--no-build-isolation", "--use-pep517", *place, str(tree))
    except (InstallError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
