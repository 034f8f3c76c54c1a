"""Where the checkpoints of two trainings differ."""

from __future__ import annotations

from pathlib import Path

import torch


def content(folder: Path, name: str = "model_final.pth") -> dict:
    return torch.load(folder / name, weights_only=True)  # nothing but plain types


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        return [n for key in one for n in differences(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other), name
        pairs = enumerate(zip(one, other, strict=True))
        return [n for i, (a, b) in pairs for n in differences(a, b, f"{name}/{i}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [name]


def ignoring_folder(found: list[str]) -> list[str]:
    return [name for name in found if name != "/trainer/hooks/RunState/config"]
