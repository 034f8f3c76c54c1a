"""detectron2, this package on it, and a tiny detector that takes one training step."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import time
from pathlib import Path

from .findings import Check, Finding, ok, one_line, problem, tool, warning
from .packages import Broken, is_there, load, or_broken, release

GUIDE = "https://detectron2.readthedocs.io/tutorials/install.html"
PURE = f"{tool('install_detectron2')} (0.5, Python only, no compiler)"
HOOK = "DETECTRON2_ENV_MODULE"

# Names that libraries have dropped since detectron2 0.5: (in the sources, its module, what helps).
DROPPED = (
    (r"\bnp\.(bool|int|float|str|object|long)\b", "numpy", 'python -m pip install "numpy<1.24"'),
    (r"\bImage\.(LINEAR|ANTIALIAS)\b", "PIL.Image", 'python -m pip install "Pillow<10"'),
)

TINY = (
    "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.WEIGHTS", "", "MODEL.MASK_ON", True,
    "MODEL.BACKBONE.NAME", "build_lambda_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0,
    "MODEL.LAMBDA_RESNET.DEPTH", 26, "MODEL.LAMBDA_RESNET.LAYER.SCOPE", 7,
    "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 32,
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [48], [64]],
    "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 20,
    "MODEL.RPN.PRE_NMS_TOPK_TEST", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 20,
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", 2,
    "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC", 1, "MODEL.ROI_BOX_HEAD.FC_DIM", 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
    "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.CONV_DIM", 32,
)  # fmt: skip
SIDE = 96


@or_broken
def detectron2() -> Finding:
    """Which one, by its interfaces: its release number does not tell 0.6 from main."""
    try:
        module = load("detectron2", f"{GUIDE}, or {PURE}")
    except Broken as broken:
        hook = os.environ.get(HOOK)
        if hook and "not installed" not in broken.finding.found:
            fix = f"{HOOK}={hook} runs in its import: mend that module or unset the variable"
            return problem(broken.finding.found, fix)
        raise
    load("detectron2.modeling", f"build detectron2 for this torch again: {GUIDE}, or {PURE}")
    try:
        which = importlib.import_module("lambda_det.compat").detectron2_flavour()
    except Exception as error:  # has a row of its own
        which = f"unknown ({one_line(error)})"
    hook = f", {HOOK}={os.environ[HOOK]}" if os.environ.get(HOOK) else ""
    return ok(f"interfaces of {which}, calls itself {release(module)}{hook}")


def compiled() -> Finding:
    lacks = "rotated boxes, deformable convolutions and the fast COCO evaluator; no config here "
    lacks += "uses them"
    try:
        module = importlib.import_module("detectron2._C")
    except ModuleNotFoundError:
        return ok(f"none, so there are no {lacks}")
    except ImportError as error:
        return problem(
            f"of another torch: {one_line(error)}", f"build detectron2 again: {GUIDE}, or {PURE}"
        )
    if str(getattr(module, "__file__", "")).endswith(".py"):
        return ok(f"none (Python only), so there are no {lacks}")
    torch = load("torch", "")
    if torch.cuda.is_available() and not module.has_cuda():
        return warning(
            "built without CUDA: rotated boxes and deformable convolutions run on the CPU alone",
            f"build detectron2 again where nvcc is, with FORCE_CUDA=1: {GUIDE}",
        )
    return ok(f"there, built with {module.get_compiler_version()}")


@or_broken
def pitfalls() -> Finding:
    """Whether the sources of detectron2 name what these releases of numpy and Pillow lack."""
    root = source_folder("detectron2")
    if root is None:
        return warning("not looked at: detectron2 is not installed", f"{GUIDE}, or {PURE}")
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    found, fixes = [], []
    for pattern, name, fix in DROPPED:
        module = load(name, fix)
        uses = (
            (path, match) for path, text in sources.items() for match in re.finditer(pattern, text)
        )
        for path, match in uses:
            if not hasattr(module, match[1]):
                place = path.relative_to(root.parent).as_posix()
                found.append(f"{place} uses {match[0]}, which this {name.split('.')[0]} lacks")
                fixes.append(fix)
                break
    if found:
        more = "or a later detectron2, or " + PURE
        return problem("; ".join(found), f"{' and '.join(dict.fromkeys(fixes))}, {more}")
    resources = any(re.search(r"^import pkg_resources", t, re.MULTILINE) for t in sources.values())
    if resources and not is_there("pkg_resources"):
        return warning(
            "detectron2.model_zoo needs pkg_resources, which this setuptools lacks",
            'python -m pip install "setuptools<81" (nothing here needs it)',
        )
    return ok("none of its names is gone from these numpy and Pillow")


@or_broken
def package() -> Finding:
    module = load(
        "lambda_det", "install lambda_det again (in a checkout: python -m pip install -e .)"
    )
    registry = importlib.import_module("detectron2.modeling").BACKBONE_REGISTRY
    names = [name for name, _ in registry if "lambda_resnet" in name]
    return ok(f"{release(module)}, {len(names)} backbones registered")


@or_broken
def step() -> Finding:
    """Losses, gradients and detections of a Mask R-CNN with lambda layers on one picture."""
    torch = load("torch", "")
    start = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _tiny_model(device)
    picture = _picture(torch)
    with importlib.import_module("detectron2.utils.events").EventStorage():
        losses = model.train()([picture])
        total = sum(losses.values())
        total.backward()
    bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss))]
    bad += [n for n, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if bad:
        return problem(
            f"not finite on {device}: {', '.join(bad[:3])}",
            "try MODEL.DEVICE cpu; on a GPU that differs from the CPU, another release of torch",
        )
    with torch.no_grad():
        count = len(model.eval()([picture])[0]["instances"])
    seconds = time.perf_counter() - start
    return ok(
        f"λ-26 Mask R-CNN on {device}: loss {total.item():.2f}, gradients, "
        f"{count} detections, {seconds:.1f} s"
    )


def source_folder(name: str) -> Path | None:
    """Where a package lies, which may be unfit to be imported; None where there is none."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _tiny_model(device: str):
    cfg = importlib.import_module("lambda_det").get_cfg()
    cfg.merge_from_list([*TINY, "MODEL.DEVICE", device])
    return importlib.import_module("detectron2.modeling").build_model(cfg)


def _picture(torch) -> dict[str, object]:
    structures = importlib.import_module("detectron2.structures")
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 20:70, 10:60] = True
    instances = structures.Instances((SIDE, SIDE))
    instances.gt_boxes = structures.Boxes(torch.tensor([[10.0, 20.0, 60.0, 70.0]]))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = structures.BitMasks(mask)
    image = (mask.expand(3, -1, -1) * 200).to(torch.uint8)
    return {"image": image, "instances": instances, "height": SIDE, "width": SIDE}


def _finite(tensor) -> bool:
    return bool(tensor.isfinite().all())


CHECKS = (
    Check("dropped names", pitfalls, needs=("numpy", "Pillow")),
    Check("detectron2", detectron2, needs=("torch", "OpenCV", "fvcore", "dropped names")),
    Check("compiled operators", compiled, needs=("torch", "detectron2")),
    Check("lambda_det", package, needs=("detectron2", "torchvision")),
    Check("a training step", step, needs=("lambda_det",)),
)
