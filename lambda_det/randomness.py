"""Random numbers that depend on a key only, so that a resumed run draws what it would have drawn.

Nothing of a generator's state has to be saved: what is random in an iteration is seeded by (seed,
iteration, process), an image's augmentation by (seed, place of the image in the run's order).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ORDER, IMAGE, ITERATION = range(3)
"""First number of the keys of three independent streams."""


def seed_of(*key: int) -> int:
    """32 random bits that depend on ``key``, non-negative integers, alone."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def seed_everything(*key: int) -> None:
    """Seed Python's, numpy's and PyTorch's (every device's) generators by ``key``."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of the CPU for a while; their earlier states come back."""
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
