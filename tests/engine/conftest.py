"""A tiny detector and a tiny dataset for tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_det.data import generate_shapes

TINY = (
    # A whole LambdaResNet-50, everything around it as small as it gets.
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 "
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 32 "
    "MODEL.ROI_MASK_HEAD.NUM_CONV 1 MODEL.ROI_BOX_HEAD.CONV_DIM 32 MODEL.ROI_BOX_HEAD.NUM_CONV 1 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 10 SOLVER.WARMUP_ITERS 0 SEED 1 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0"
).split()


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "shapes"
    generate_shapes(folder, num_train=6, num_val=3, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    """KEY VALUE pairs that make the CPU config tiny."""
    return tuple(TINY)
