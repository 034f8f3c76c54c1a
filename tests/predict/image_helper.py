"""A smooth image that is another for every seed."""

from __future__ import annotations

import cv2
import numpy as np


def smooth_image(seed: int, height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
