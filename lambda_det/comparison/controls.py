"""Two controls of what an AP rests on: the trained network with the residual branches of res4 and
res5 zeroed, and a network trained without them (docs/comparison.md, "What the AP rests on")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.evaluation.metrics import TASK_NAMES

ZEROED, TRAINED_WITHOUT = CONTROLS = ("zeroed", "trained_without")
"""What a suite may list under ``controls``."""

IDLE_STAGES = "MODEL.LAMBDA_RESNET.IDLE_STAGES"

RESTS, IDLE, NO_BETTER, UNKNOWN = "rests", "idle", "no better", "unknown"

IDLE_SHARE = 0.01
"""Share of the AP that an idle branch may be worth: rounding and the order of equal scores."""

_FAMILY = {
    "build_lambda_resnet_backbone", "build_lambda_resnet_fpn_backbone",
    "build_retinanet_lambda_resnet_fpn_backbone",
}  # fmt: skip
NAMED_STAGES = " and ".join(CONTROLLED_STAGES)


def idle_stages(cfg: CfgNode) -> list[str] | None:
    """``IDLE_STAGES`` of the training without the branches; None where there is no such control.

    A backbone that is not of this package cannot be trained without its branches, and one that
    has none of them in the first place (a suite may compare it as a model) is a control itself.
    Branches that end without a norm cannot be zeroed, nor can a res5 that is not built.
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
    """The config of the training without the branches, of a model that has this control."""
    cfg = cfg.clone()
    cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES = idle_stages(cfg)
    return cfg


def verdict(ap: float, over_zeroed: Mapping | None, over_trained_without: Mapping | None) -> str:
    """Whether an AP rests on the residual branches of res4 and res5.

    The rule is that of docs/comparison.md: a number rests on the branches only
    where it beats *trained without* by more than the interval. As good as before when *zeroed*, the
    branches are idle; worse when zeroed proves nothing, for random branches are that too.

    Args:
        ap: mean over the seeds, in percent.
        over_zeroed: AP minus that of the same weights with zeroed branches, of
            :func:`~lambda_det.comparison.statistics.paired_difference`; None where unknown.
        over_trained_without: AP minus that of a training without them, likewise.

    Returns:
        :data:`IDLE` where zeroing costs no seed more than :data:`IDLE_SHARE` of the AP; else
        :data:`RESTS` or :data:`NO_BETTER`. :data:`UNKNOWN` without *trained without*, and where one
        seed is above it: the interval is unknown.
    """
    if over_zeroed is not None and max(over_zeroed["values"]) <= IDLE_SHARE * ap:
        return IDLE
    if over_trained_without is None:
        return UNKNOWN
    low, mean = over_trained_without["low"], over_trained_without["mean"]
    if low is None:
        return UNKNOWN if mean > 0 else NO_BETTER
    return RESTS if low > 0 else NO_BETTER


def verdict_of(row: Mapping, task: str) -> str | None:
    """Of a row of a record; None where it has no controls or no AP."""
    if not row.get("controls") or f"{task}_ap" not in row:
        return None
    return verdict(
        row[f"{task}_ap"]["mean"],
        row.get(f"{task}_ap_over_{ZEROED}"),
        row.get(f"{task}_ap_over_{TRAINED_WITHOUT}"),
    )


def controls_line(rows: Sequence[Mapping]) -> str:
    """What the controls say of the models of a set, in one line; "" without controls."""
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
    """What stands beside a gain: "" where one of the two APs rests on the branches, or nothing was
    controlled."""
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
