"""The parts that numbers of a network are given for."""

from __future__ import annotations

from lambda_det.backbone.architectures import STAGES

BOTTOM_UP_PARTS = ("stem", *STAGES)
"""Parts of the bare backbone, in its order."""

PARTS = (*BOTTOM_UP_PARTS, "classifier", "neck", "heads")


def part_of(name: str) -> str:
    """The part that a module or parameter of a detector or of a bare backbone belongs to.

    Args:
        name: such as ``backbone.bottom_up.res4.5.conv1.weight``, ``res4.5`` or ``roi_heads``; in a
            detector the backbone with its neck is ``backbone``.
    """
    words = name.split(".")
    in_backbone = words[0] == "backbone"
    rest = [word for word in words if word not in ("backbone", "bottom_up")]
    if not rest:
        return "neck"
    if rest[0] in BOTTOM_UP_PARTS:
        return rest[0]
    if rest[0] in ("linear", "avgpool"):
        return "classifier"
    return "neck" if in_backbone else "heads"
