"""Training steps on a GPU: do they stay finite, where do they wait, can they be captured?"""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from detectron2.engine import HookBase
from torch import Tensor

from lambda_det.backbone import build_lambda_resnet
from lambda_det.configs import load_config
from lambda_det.data import generate_shapes
from lambda_det.engine import parts_from_cfg, run
from lambda_det.errors import first_line_of
from lambda_det.shipped_configs import ROOT
from studies.endurance.tiny_training import CONFIG, TINY

ITERATIONS = 300
WATCHED = range(5, 10)
"""Iterations whose waits are counted; the first ones also prepare things."""

_ON_GPU = (
    "INPUT.MIN_SIZE_TRAIN (320,) INPUT.MAX_SIZE_TRAIN 448 SOLVER.IMS_PER_BATCH 8 "
    "MODEL.LAMBDA_RESNET.MASK_PADDING True DATALOADER.NUM_WORKERS 8 SEED 1"
)


class Losses(HookBase):
    """Keeps the total loss of every iteration, in every form that a row shows."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.seconds: list[float] = []
        self.skipped = 0

    def after_step(self) -> None:
        storage = self.trainer.storage
        self.values.append(storage.history("total_loss").latest())
        if "time" in storage.histories():
            self.seconds.append(storage.history("time").latest())
        self.skipped = self.trainer.skipped


def training_rows(
    device: str, folder: str, precision: str, backend: str, *, tiny: bool
) -> Iterator[dict]:
    """Train a Mask R-CNN with λ-50 on generated images, and yield the row of this training.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        folder: for the images and the training's files.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        backend: back end of its lambda layers.
        tiny: 3 iterations of tiny images.
    """
    row: dict = {"precision": precision, "backend": backend}
    losses = Losses()
    try:
        _train(device, folder, precision, backend, losses, 3 if tiny else ITERATIONS, tiny=tiny)
    except FloatingPointError as error:
        row["note"] = str(error)[:300]
    row["iterations"] = len(losses.values)
    if losses.values:
        row |= {
            "first_20_losses": round(statistics.mean(losses.values[:20]), 4),
            "last_20_losses": round(statistics.mean(losses.values[-20:]), 4),
            "largest_loss": round(max(losses.values), 4),
            "skipped_steps": losses.skipped,
        }
    if losses.seconds:
        row["s_per_iteration"] = round(statistics.median(losses.seconds), 4)
    if device.startswith("cuda"):
        row["peak_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        torch.cuda.reset_peak_memory_stats()
    yield row


def _train(
    device: str,
    folder: str,
    precision: str,
    backend: str,
    hook: HookBase,
    iterations: int,
    *,
    tiny: bool,
) -> None:
    data = os.path.join(folder, "shapes")
    if not os.path.isdir(data):
        generate_shapes(data, num_train=8 if tiny else 64, num_val=1, seed=0)
    words = [
        *(TINY if tiny else _ON_GPU).split(),
        "MODEL.LAMBDA_RESNET.LAYER.BACKEND", backend, "MODEL.DEVICE", device,
        "SOLVER.AMP.ENABLED", str(precision != "float32"), "SOLVER.MAX_ITER", str(iterations),
        "DATASETS.TEST", "()", "DATASETS.COCO_FOLDER", data,
        "OUTPUT_DIR", os.path.join(folder, f"{precision}_{backend}"),
    ]  # fmt: skip
    if precision != "float32":
        words += ["SOLVER.AMP.PRECISION", precision]
    parts, options = parts_from_cfg(load_config(CONFIG, words))
    run(parts, options, hooks=[hook])


class _Waits(HookBase):
    """Counts where PyTorch says that the host waits for the GPU."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()

    def before_step(self) -> None:
        if self.trainer.iter in WATCHED:
            self._caught = warnings.catch_warnings(record=True)
            self._warnings = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def after_step(self) -> None:
        if self.trainer.iter in WATCHED:
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            self.places.update(
                f"{_short(each.filename)}:{each.lineno}"
                for each in self._warnings or ()
                if "called a synchronizing" in str(each.message)
            )


def waiting_rows(device: str, folder: str, *, tiny: bool) -> Iterator[dict]:
    """A row for each line of code that waits in an iteration of a training with MASK_PADDING."""
    if not device.startswith("cuda"):
        yield {"note": "needs a GPU"}
        return
    waits = _Waits()
    _train(device, folder, "bfloat16", "conv", waits, WATCHED.stop + 1, tiny=tiny)
    for place, number in waits.places.most_common():
        own = place.startswith("lambda_det/")
        yield {"place": place, "own": own, "waits_per_iteration": number / len(WATCHED)}


def _short(path: str) -> str:
    """A path from the root of the checkout or from the packages of Python on."""
    return path.removeprefix(f"{ROOT}/").rpartition("site-packages/")[2]


def graph_rows(device: str, backends: Sequence[str]) -> Iterator[dict]:
    """A row for each back end: its step captured as a CUDA graph and replayed, beside a step."""
    if not device.startswith("cuda"):
        yield {"note": "needs a GPU"}
        return
    for backend in backends:
        row: dict = {"backend": backend}
        try:
            difference = _captured(device, backend)
            finite = difference if math.isfinite(difference) else None  # JSON has no NaN
            yield row | {"captured": True, "largest_difference": finite}
        except Exception as error:  # of the capture: that is the finding
            yield row | {"captured": False, "note": first_line_of(error)[:300]}


def _captured(device: str, backend: str) -> float:
    """The largest difference of a gradient between a replayed graph and a step, relative to it."""
    torch.manual_seed(0)
    model = build_lambda_resnet(50, "lambda", backend=backend, zero_init_residual=False)
    model = model.to(device).train()
    x = torch.randn(2, 3, 256, 320, device=device)

    def step() -> None:
        # Autocast must not keep weights that were converted outside of the graph.
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            features = model(x)
        sum(feature.float().square().mean() for feature in features.values()).backward()

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(beside)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    found = gradients()
    model.zero_grad(set_to_none=True)
    step()
    differences = [
        (one - other).norm() / other.norm().clamp_min(1e-12)
        for one, other in zip(found, gradients(), strict=True)
    ]
    return float(torch.stack(differences).max())
