"""Random numbers that depend on a key only, so that a resumed run draws the same numbers.

The generators are seeded for each iteration by (seed, iteration, process) and for each image by
(seed, position of the image in the run's order). Hence a checkpoint need not contain their states.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ORDER, IMAGE, ITERATION = range(3)
"""First number of a key. It keeps the random numbers of the three purposes independent."""


def seed_of(*key: int) -> int:
    """Return a seed of 32 bits that depends on the key, non-negative integers, only."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seed_everything(*key: int) -> None:
    """Seed the generators of Python, numpy and PyTorch (all devices) by a key of integers."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's generators in the ``with`` block and restore their states after it."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])
