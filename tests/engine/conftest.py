"""A tiny detector and a tiny dataset for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from tiny_detector import CONFIG, TINY

from lambda_det.configs import load_config
from lambda_det.data import generate_shapes
from lambda_det.engine import Parts, RunOptions, parts_from_cfg, run
from lambda_det.engine.parts import Results

# For trainings by the dozen: detectron2's ResNet-50 with an eighth of its channels.
SLIM = (
    "MODEL.BACKBONE.NAME build_resnet_fpn_backbone MODEL.BACKBONE.FREEZE_AT 0 "
    "MODEL.RESNETS.NORM BN MODEL.RESNETS.WIDTH_PER_GROUP 8 MODEL.RESNETS.RES2_OUT_CHANNELS 32 "
    "MODEL.RESNETS.STEM_OUT_CHANNELS 8 SOLVER.MAX_ITER 4 SOLVER.CHECKPOINT_PERIOD 1 "
    "MODEL.RESNETS.OUT_FEATURES ['res2','res3','res4','res5'] DATASETS.TEST ()"
).split()


@pytest.fixture(autouse=True, scope="package")
def _files_with_checksums() -> Iterator[None]:
    """A resume reads them; the other tests leave them out."""
    if not hasattr(torch.serialization, "set_crc32_options"):  # before PyTorch 2.6
        yield
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    yield
    torch.serialization.set_crc32_options(before)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "shapes"
    generate_shapes(folder, num_train=6, num_val=3, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_overrides() -> tuple[str, ...]:
    """KEY VALUE pairs that make the CPU config tiny."""
    return tuple(TINY)


@dataclass
class Training:
    """Parts and options of a training, and the config that they are of."""

    parts: Parts
    options: RunOptions
    cfg: CfgNode

    def train(self, *, resume: bool = False, hooks: Sequence[HookBase] = ()) -> Results:
        return run(self.parts, self.options, resume=resume, hooks=hooks)


@pytest.fixture(scope="session")
def make_training(project: Path, shapes_folder: Path) -> Callable[..., Training]:
    """(OUTPUT_DIR, KEY, VALUE, …) -> a training of the slim detector, seeded as train_net does."""

    def make(output: Path, *overrides: object, evaluate: object = None) -> Training:
        words = [*TINY, *SLIM, "DATASETS.COCO_FOLDER", shapes_folder, "OUTPUT_DIR", output]
        cfg = load_config(str(project / CONFIG), [*map(str, words), *map(str, overrides)])
        parts, options = parts_from_cfg(cfg)
        parts.evaluate = evaluate or parts.evaluate
        return Training(parts, options, cfg)

    return make
