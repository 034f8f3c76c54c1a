"""Grounds and textures of the generated pictures."""

from __future__ import annotations

import cv2
import numpy as np


def draw_ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dull ground: one colour with a gradient and with grain or stripes."""
    grey = rng.uniform(40, 200)
    colour = np.clip(grey + rng.uniform(-25, 25, size=3), 0, 255)
    pattern = _gradient(rng, height, width) + texture(rng, height, width)
    return np.clip(colour + 9 * pattern[..., None], 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) from about -1 to 1 along a random direction."""
    return 2 * (_ramp(rng, height, width) / max(height, width))


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) of about unit amplitude: grain, stripes or a chequered pattern."""
    kind = rng.integers(3)
    if kind == 0:
        grain = rng.standard_normal((height, width)).astype(np.float32)
        return 2 * cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.8, 1.6))
    period = rng.uniform(6, 14)
    stripes = np.sin(2 * np.pi * _ramp(rng, height, width) / period)
    if kind == 1:
        return stripes
    return np.sign(stripes * np.sin(2 * np.pi * _ramp(rng, height, width) / period))


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) distance in pixels from the centre along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.arange(height)[:, None] - height / 2
    columns = np.arange(width)[None, :] - width / 2
    return columns * np.cos(angle) + rows * np.sin(angle)
