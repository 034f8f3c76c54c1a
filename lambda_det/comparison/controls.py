"""Two controls that tell what an AP rests on: the trained network with the residual branches of
res4 and res5 zeroed, and a network trained without them (docs/comparison.md, "What the AP rests
on")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.evaluation.metrics import TASK_NAMES

ZEROED, TRAINED_WITHOUT = CONTROLS = ("zeroed", "trained_without")
"""The controls that a suite may list under ``controls``."""

IDLE_STAGES = "MODEL.LAMBDA_RESNET.IDLE_STAGES"

RESTS, IDLE, NO_BETTER, UNKNOWN = "rests", "idle", "no better", "unknown"

IDLE_SHARE = 0.01
"""Share of the AP that zeroing an idle branch may cost: rounding and the order of equal scores."""

_FAMILY = {
    "build_lambda_resnet_backbone", "build_lambda_resnet_fpn_backbone",
    "build_retinanet_lambda_resnet_fpn_backbone",
}  # fmt: skip
NAMED_STAGES = " and ".join(CONTROLLED_STAGES)


def idle_stages(cfg: CfgNode) -> list[str] | None:
    """``IDLE_STAGES`` of the control training of a model; None if the model has no such control.

    A backbone that is not of this package cannot be trained without its residual branches, and one
    that has none of them in the first place (a suite may compare it as a model) is a control
    itself. Branches that end without a norm cannot be zeroed, nor can a res5 that is not built.
    """
    if cfg.MODEL.BACKBONE.NAME not in _FAMILY:
        return None
    node = cfg.MODEL.LAMBDA_RESNET
    if node.NORM == "" or CONTROLLED_STAGES[-1] not in node.OUT_FEATURES:
        return None
    own = list(node.IDLE_STAGES)
    added = [stage for stage in CONTROLLED_STAGES if stage not in own]
    return [*own, *added] if added else None


def config_without(cfg: CfgNode) -> CfgNode:
    """The config of the training without the residual branches, of a model for which
    :func:`idle_stages` is not None."""
    cfg = cfg.clone()
    cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES = idle_stages(cfg)
    return cfg


def verdict_of(row: Mapping, task: str) -> str | None:
    """Whether the AP of one of a record's ``"rows"`` rests on the residual branches of res4 and
    res5.

    The rule is that of docs/comparison.md: a number rests on the branches only if it is above
    *trained without* by more than the interval. If zeroing does not lower the AP, the branches are
    idle. A lower AP proves nothing, because zeroing random branches lowers it too.

    Returns:
        :data:`IDLE` if zeroing costs no seed more than :data:`IDLE_SHARE` of the AP; otherwise
        :data:`RESTS` or :data:`NO_BETTER`. :data:`UNKNOWN` if there is no *trained without*, or if
        a single seed is above it, because the interval is then unknown. None if the row has no
        controls or no AP.
    """
    if not row.get("controls") or f"{task}_ap" not in row:
        return None
    over_zeroed = row.get(f"{task}_ap_over_{ZEROED}")
    over_trained_without = row.get(f"{task}_ap_over_{TRAINED_WITHOUT}")
    mean = row[f"{task}_ap"]["mean"]
    if over_zeroed is not None and max(over_zeroed["values"]) <= IDLE_SHARE * mean:
        return IDLE
    if over_trained_without is None:
        return UNKNOWN
    if over_trained_without["low"] is None:
        return UNKNOWN if over_trained_without["mean"] > 0 else NO_BETTER
    return RESTS if over_trained_without["low"] > 0 else NO_BETTER


def controls_line(rows: Sequence[Mapping]) -> str:
    """Say in one line what the controls tell about the models of a set; "" without controls."""
    found: dict[str, list[str]] = {}
    for row in rows:
        verdicts = {task: verdict_of(row, task) for task in TASK_NAMES.values()}
        known = {task: value for task, value in verdicts.items() if value is not None}
        for value in dict.fromkeys(known.values()):
            tasks = [task for task, other in known.items() if other == value]
            which = f" ({' and '.join(tasks)})" if len(tasks) < len(known) else ""
            found.setdefault(value, []).append(row["label"] + which)
    if not found:
        return ""
    reasons = {
        IDLE: "the AP of {} does not rest on them (it is no worse with them zeroed)",
        NO_BETTER: "the AP of {} does not rest on them (it is not above that of the training "
        "without them by more than the interval)",
        UNKNOWN: "whether the AP of {} rests on them is not known (" + _why_unknown(rows) + ")",
        RESTS: "the AP of {} rests on them",
    }
    parts = [text.format(_listing(found[key])) for key, text in reasons.items() if key in found]
    line = f"Residual branches of {NAMED_STAGES}: {'; '.join(parts)}."
    uncontrolled = any("box_ap" in row and verdict_of(row, "box") is None for row in rows)
    if found.keys() <= {IDLE, NO_BETTER} and not uncontrolled:
        line += " So this comparison says nothing of the backbones."
    return line


def gain_remark(row: Mapping, baseline: Mapping | None, task: str) -> str:
    """The remark beside a gain: "" if one of the two APs rests on the branches, or if the suite has
    no controls."""
    found = {verdict_of(r, task) for r in (row, baseline) if r is not None}
    if found <= {None} or RESTS in found:
        return ""
    if found & {None, UNKNOWN}:
        return f"not known whether it rests on {NAMED_STAGES}"
    return "says nothing of the backbones"


def _why_unknown(rows: Iterable[Mapping]) -> str:
    if any(TRAINED_WITHOUT in row.get("controls", ()) for row in rows):
        return "it takes two seeds with their trainings without them"
    return "worse when zeroed proves nothing, and none was trained without them"


def _listing(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
