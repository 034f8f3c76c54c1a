"""Packaging of lambda_det. The tool settings (lint, tests) are in pyproject.toml."""

import re
import shutil
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Copies the configs, which lambda_det/configs.py finds, and the installer of detectron2 into
    the built package. (As a package_dir, tools/ would bring every file of it.) An editable
    installation reads the checkout's."""

    def run(self) -> None:
        if not self.editable_mode:  # modules of an earlier build that are gone since
            shutil.rmtree(Path(self.build_lib) / "lambda_det", ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        shipped = Path(self.build_lib) / "lambda_det" / "shipped"
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "configs", shipped / "configs", ignore=unwanted)
        (shipped / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "install_detectron2.py", shipped / "tools")


class DistributionWithKernels(Distribution):
    """A wheel that brings compiled kernels along (``lambda_det build_native``) is of a platform."""

    def has_ext_modules(self) -> bool:
        return any((ROOT / "lambda_det" / "layers" / "native").glob("*.so"))


def read_version() -> str:
    """The version in lambda_det/version.py, read as text: importing the package needs torch."""
    text = (ROOT / "lambda_det" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def read_long_description() -> str:
    """README.md, or nothing in a tree that does not carry it."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="lambda_det",
    version=read_version(),
    description="LambdaResNet backbones for detectron2",
    long_description=read_long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["lambda_det", "lambda_det.*"]),
    py_modules=["lambda_det_command"],
    package_data={"lambda_det": ["py.typed", "comparison/*.jinja", "layers/native/*.[chs]*"]},
    distclass=DistributionWithKernels,
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["lambda_det = lambda_det_command:main"]},
    python_requires=">=3.10",
    # Left to the user on purpose, because pip would replace a working installation by another:
    #   torch, torchvision: their builds must match each other and the CUDA driver;
    #   detectron2: not on the package index under its own name (tools/install_detectron2.py
    #     installs it without a compiler);
    #   opencv: comes as opencv-python or as opencv-python-headless (servers without libGL), and a
    #     requirement on the one is not met by the other. detectron2 leaves it out as well.
    install_requires=[
        "fvcore>=0.1.5,<0.1.6",
        "Jinja2>=3.1",
        "matplotlib>=3.7",
        "numpy",
        "omegaconf>=2.1",
        "psutil>=5.9",
        "pycocotools>=2.0.2",
        "PyYAML",
        "scipy>=1.9",
        "shapely>=2.0",  # fvcore crops polygons with it, and does not require it
        "tabulate",
    ],
    extras_require={
        "dev": [
            "hypothesis",
            "import-linter>=2.17; python_version >= '3.11'",
            "mypy>=1.8",
            "pytest>=7.4",
            "pytest-xdist>=3.3",
            "ruff",
            "submitit>=1.5",
        ],
        "docs": ["myst-parser", "sphinx"],
        "eval": ["faster-coco-eval>=1.6,<2"],
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"],
        "pretrain": ["safetensors", "timm>=1.0"],
        "slurm": ["submitit>=1.5"],
        "wandb": ["wandb"],
    },
)
