"""Fixtures of the tests of weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def cheap_weights() -> Iterator[None]:
    """Networks are built with one number per tensor, another for each, in place of noise.

    Drawing 25 million numbers takes longer than what most tests here look at.
    """
    numbers = itertools.count(1)

    def fill(tensor: Tensor, *arguments, **keywords) -> Tensor:
        with torch.no_grad():
            return tensor.fill_(next(numbers) / 1000)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "kaiming_normal_", "kaiming_uniform_"):
            patch.setattr(torch.nn.init, name, fill)
        yield
