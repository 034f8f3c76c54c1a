"""Whether a training gives the residual branches a part: a warning before, the measure after."""

from __future__ import annotations

import logging

import torch
from detectron2.engine import HookBase
from torch import nn

from lambda_det.backbone.residual_branches import closed_branches, mean_last_norms
from lambda_det.errors import key
from lambda_det.layers import LambdaLayer

logger = logging.getLogger(__name__)

SHORT = 10_000
"""Iterations. In the few hundred of a CPU-sized run a last norm that starts at 0 reaches 0.001 to
0.007; the schedules that this start was made for have tens of thousands."""


class BranchReport(HookBase):
    """Warns before a short training of branches that start at 0, and logs after every training how
    far they have opened.

    ``metrics.json`` gets ``last_norm/res2`` … and ``embedding_rms/res4`` … in its last line.
    """

    def before_train(self) -> None:
        closed, total = closed_branches(self.trainer.model)
        if closed and self.trainer.max_iter < SHORT:
            names = ("ZERO_INIT_RESIDUAL", "PARTIAL_INIT_AS_IDENTITY")
            zero, identity = (key(f"MODEL.LAMBDA_RESNET.{name}") for name in names)
            logger.warning(
                "%d of %d residual branches start at 0 (their last norm is 0), and the run has %d "
                "iterations: too few to open them, so that the rest of the network learns without "
                "them; set %s False (and %s False, where weights were loaded in part), or train "
                "for %d iterations and more",
                closed, total, self.trainer.max_iter, zero, identity, SHORT,
            )  # fmt: skip

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        figures = branch_figures(self.trainer.model)
        if figures["last_norm"]:
            embeddings = figures["embedding_rms"]
            logger.info(
                "mean |last norm| of the residual branches: %s%s",
                _listing(figures["last_norm"]),
                f"; rms of the position embeddings: {_listing(embeddings)}" if embeddings else "",
            )
        for name, values in figures.items():
            for stage, value in values.items():
                self.trainer.storage.put_scalar(f"{name}/{stage}", value, smoothing_hint=False)


def branch_figures(model: nn.Module) -> dict[str, dict[str, float]]:
    """Measure a model's residual branches.

    Returns:
        ``last_norm``: stage -> mean |weight| of its last norms. ``embedding_rms``: stage -> root
        mean square of its position embeddings, which start near 1.
    """
    squares: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, LambdaLayer) and module.embedding is not None:
            stage = next((part for part in name.split(".") if part.startswith("res")), name)
            squares.setdefault(stage, []).append(module.embedding.detach().float().square().mean())
    return {
        "last_norm": mean_last_norms(model),
        "embedding_rms": {s: float(torch.stack(v).mean().sqrt()) for s, v in squares.items()},
    }


def _listing(values: dict[str, float]) -> str:
    return ", ".join(f"{stage} {value:.3f}" for stage, value in values.items())
