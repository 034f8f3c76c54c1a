"""A tiny ImageFolder and runs of a whole LambdaResNet-26 on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pretrain_helpers import arguments, write_images


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes, 9 images to train on, 5 to validate with."""
    root = tmp_path_factory.mktemp("images")
    for number, name in enumerate(("ape", "bee", "cat")):
        write_images(root / "train" / name, 3, seed=number)
        write_images(root / "val" / name, 2 if number else 1, seed=10 + number)
    return root


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs. Their checkpoints are large, and pytest would keep them for a while."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def run_tiny(project: Path, image_folder: Path) -> Callable[..., dict[str, float]]:
    """``run_tiny(output, KEY, VALUE, ..., resume=False)`` in this process."""
    from lambda_det.pretrain import pretrain

    def run(output: Path, *keys: object, resume: bool = False) -> dict[str, float]:
        return pretrain(arguments(project, image_folder, output, *keys, resume=resume))

    return run


@pytest.fixture(scope="session")
def finished(run_tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run_tiny(output)
    yield output
    shutil.rmtree(output, ignore_errors=True)
