"""Fixtures of every room."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.logger import setup_logger
from torch import Tensor

COCO_TINY_VARIABLE = "LAMBDA_DET_COCO_TINY"
PROJECT = Path(__file__).resolve().parent.parent
LOGGERS = ("lambda_det", "detectron2", "fvcore")
THREADS = torch.get_num_threads()


def _loggers_as_imported() -> None:
    """detectron2's setup_logger cuts a logger off from the root and gives it the stdout of the
    test that called it; a tool sets levels for its process."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate, logger.disabled, logger.handlers = True, False, []
            logger.setLevel(logging.NOTSET)
    setup_logger.cache_clear()  # it remembers what it has set up, and does not do it again


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures, those of modules and sessions included: no test, and no fixture that it
    is the first to ask for, depends on the tests that ran before."""
    _loggers_as_imported()
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """What a shared fixture did to the loggers does not reach the test that happens to be first."""
    _loggers_as_imported()
    folder = Path.cwd()
    yield
    os.chdir(folder)
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def _pools() -> tuple[Tensor, Tensor]:
    """A million normal and a million uniform numbers."""
    generator = torch.Generator().manual_seed(0)
    return tuple(draw(1_000_003, generator=generator) for draw in (torch.randn, torch.rand))


@pytest.fixture(scope="module")
def quick_weights(_pools: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Large weights repeat numbers that were drawn once, from a random place on.

    Drawing 25 million takes longer than what most tests of a network look at. The distributions
    are the same; in another process the numbers are others.
    """
    normal, uniform = _pools
    draw_normal, draw_uniform = Tensor.normal_, Tensor.uniform_

    def is_large(tensor: Tensor) -> bool:
        plain = tensor.device.type == "cpu" and tensor.is_contiguous()
        return plain and tensor.dtype == torch.float32 and tensor.numel() > 10_000

    def fill(tensor: Tensor, pool: Tensor, shift: float, scale: float) -> Tensor:
        flat, start = tensor.view(-1), int(torch.randint(len(pool), ()))
        while len(flat):
            part = pool[start : start + len(flat)]
            torch.mul(part, scale, out=flat[: len(part)])
            flat, start = flat[len(part) :], 0
        return tensor.add_(shift) if shift else tensor

    def normal_(tensor: Tensor, mean: float = 0, std: float = 1, *, generator=None) -> Tensor:
        if tensor.is_meta:
            return tensor
        if generator is not None or not is_large(tensor):
            return draw_normal(tensor, mean, std, generator=generator)
        return fill(tensor, normal, mean, std)

    def uniform_(tensor: Tensor, low: float = 0, high: float = 1, *, generator=None) -> Tensor:
        if tensor.is_meta:
            return tensor
        if generator is not None or not is_large(tensor):
            return draw_uniform(tensor, low, high, generator=generator)
        return fill(tensor, uniform, low, high - low)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "normal_", normal_)
        patch.setattr(Tensor, "uniform_", uniform_)
        yield


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def coco_tiny(project: Path) -> Path:
    """80 real COCO images with masks: a folder named by the variable, or ../shared/coco_tiny."""
    named = os.environ.get(COCO_TINY_VARIABLE)
    folder = Path(named) if named else project.parent / "shared" / "coco_tiny"
    if not (folder / "annotations" / "instances_val2017.json").is_file():
        pytest.skip(f"no COCO images at {folder}; name a folder in {COCO_TINY_VARIABLE}")
    return folder


@pytest.fixture(autouse=True)
def _no_dataset_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the person running the tests has set must not reach them."""
    monkeypatch.delenv("LAMBDA_DET_COCO_FOLDER", raising=False)


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What lambda_det logs, from INFO on, also after a test that has set up the console."""
    monkeypatch.setattr(logging.getLogger("lambda_det"), "propagate", True)
    caplog.set_level(logging.INFO, "lambda_det")
    return caplog
