"""The parts of a detector for which parameters, FLOPs and memory are counted."""

from __future__ import annotations

from lambda_det.backbone.architectures import STAGES

BOTTOM_UP_PARTS = ("stem", *STAGES)
"""Parts of the bare backbone, in the order of the forward pass."""

PARTS = (*BOTTOM_UP_PARTS, "classifier", "neck", "heads")


def part_of(name: str) -> str:
    """Return the part, one of :data:`PARTS`, to which a module or parameter belongs.

    Args:
        name: the name in a detector, such as ``backbone.bottom_up.res4.5.conv1.weight`` or
            ``roi_heads``, or in a bare backbone, such as ``res4.5``.
    """
    names = name.split(".")
    in_backbone = names[0] == "backbone"
    rest = [part for part in names if part not in ("backbone", "bottom_up")]
    if not rest:
        return "neck"
    if rest[0] in BOTTOM_UP_PARTS:
        return rest[0]
    if rest[0] in ("linear", "avgpool"):
        return "classifier"
    return "neck" if in_backbone else "heads"
