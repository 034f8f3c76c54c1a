"""Small image files, and their check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lambda_det.data.images import image_checks, image_headers
from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.images.image_files import ImageReading

SIZE = 40, 30


def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the check remember nothing of other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_headers, "_known", {})
    monkeypatch.setattr(image_checks, "_said", set())


def noise(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)


def record(path: Path, size: tuple[int, int] | None = SIZE) -> dict:
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    return {"file_name": str(path), **sides}


def save(path: Path, orientation: int = 1, size: tuple[int, int] = SIZE) -> dict:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(noise(size=size)).save(path, exif=exif)
    return record(path)


def check(images: list[dict], **more) -> list[dict]:
    return usable_images(images, "the set", ImageReading(), **more)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])
