"""Python and the libraries: there, of one piece, and really able to do what is needed of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from types import ModuleType

from .findings import Check, Finding, ok, one_line, problem, warning

PAIR = "https://pytorch.org/get-started/locally/ (or, in a checkout, bash tools/setup_env.sh)"
INSTALL = "python -m pip install"

REQUIRED = {  # module: package; those with a check of their own are not among them
    "matplotlib": "matplotlib",
    "tabulate": "tabulate",
    "yaml": "PyYAML",
    "yacs": "yacs",
    "iopath": "iopath",
    "omegaconf": "omegaconf",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
}
OPTIONAL = {  # module: (package, what for)
    "faster_coco_eval": ("faster-coco-eval", "faster evaluation"),
    "timm": ("timm", "timm:// weights and pretraining"),
    "safetensors": ("safetensors", "its weight files"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "submitit": ("submitit", "SLURM"),
    "wandb": ("wandb", "its curves"),
}


class Broken(Exception):
    """A library that cannot be imported; holds the finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


def load(name: str, fix: str) -> ModuleType:
    """The module.

    Raises:
        Broken: it is not there or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        found = "not installed" if missing else f"cannot be imported: {one_line(error)}"
        raise Broken(problem(found, fix)) from error


def release(module: ModuleType, package: str = "") -> str:
    """What the module calls its release, or the package index does."""
    own = getattr(module, "__version__", None)
    if own:
        return str(own)
    try:
        return importlib.metadata.version(package or module.__name__)
    except importlib.metadata.PackageNotFoundError:
        return "unknown release"


def or_broken(run):
    """Decorator of a check: :class:`Broken` becomes its finding."""

    def wrapped() -> Finding:
        try:
            return run()
        except Broken as broken:
            return broken.finding

    wrapped.__doc__ = run.__doc__
    return wrapped


def python() -> Finding:
    where = "a virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    return ok(f"{platform.python_version()} on {platform.system()} {platform.machine()}, {where}")


@or_broken
def torch() -> Finding:
    module = load("torch", f"install torch and torchvision together: {PAIR}")
    try:
        module.zeros(2).numpy()
    except Exception as error:
        return problem(
            f"{release(module)} cannot work with this numpy: {one_line(error)}",
            f'{INSTALL} "numpy<2", or a later torch with its torchvision: {PAIR}',
        )
    cuda, hip = module.version.cuda, getattr(module.version, "hip", None)
    build = f"for CUDA {cuda}" if cuda else f"for ROCm {hip}" if hip else "for the CPU alone"
    return ok(f"{release(module)}, built {build}")


@or_broken
def torchvision() -> Finding:
    """Its operators are compiled for one release of torch: two overlapping boxes are tried."""
    torch = load("torch", PAIR)
    fix = (
        f"install the pair together: {INSTALL} --upgrade torch torchvision "
        "(torch 2.N goes with torchvision 0.(N+15)), or see https://pytorch.org/get-started/"
        "previous-versions/"
    )
    module = load("torchvision", fix)
    try:
        nms = importlib.import_module("torchvision.ops").nms
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]], device=device)
            kept = nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5).tolist()
            if kept != [0]:
                return problem(f"{release(module)}: its nms keeps boxes {kept} instead of [0]", fix)
    except Exception as error:
        found = f"{release(module)} does not fit torch {release(torch)}: {one_line(error)}"
        return problem(found, fix)
    return ok(f"{release(module)}, its nms runs on {' and '.join(devices)}")


@or_broken
def numpy() -> Finding:
    return ok(release(load("numpy", f"{INSTALL} numpy")))


@or_broken
def pillow() -> Finding:
    load("PIL.Image", f"{INSTALL} --force-reinstall Pillow")
    return ok(release(load("PIL", f"{INSTALL} Pillow"), "Pillow"))


@or_broken
def pycocotools() -> Finding:
    fix = f"{INSTALL} --force-reinstall --no-deps pycocotools"
    masks = load("pycocotools.mask", fix)
    numpy = load("numpy", f"{INSTALL} numpy")
    picture = numpy.zeros((5, 4), dtype=numpy.uint8, order="F")
    picture[1:3, 1:] = 1
    area = int(masks.area(masks.encode(picture)))
    if area != 6:
        return problem(f"counts {area} pixels in a mask of 6", fix)
    return ok(f"{release(masks, 'pycocotools')}, counts a mask of 6 pixels")


@or_broken
def opencv() -> Finding:
    headless = f"{INSTALL} opencv-python-headless"
    try:
        module = load("cv2", headless)
    except Broken as broken:
        if "not installed" in broken.finding.found:
            raise
        return problem(
            f"{broken.finding.found} (detectron2 cannot be imported then either)",
            f"python -m pip uninstall --yes opencv-python && {headless} (it does without libGL), "
            "or install the system library that is named (libgl1, libglib2.0-0)",
        )
    return ok(release(module, "opencv-python"))


@or_broken
def fvcore() -> Finding:
    module = load("fvcore", f'{INSTALL} "fvcore>=0.1.5,<0.1.6"')
    load("fvcore.common.config", f'{INSTALL} --force-reinstall "fvcore>=0.1.5,<0.1.6"')
    return ok(release(module))


@or_broken
def shapely() -> Finding:
    fix = f'{INSTALL} "shapely>=2.0"'
    box = load("shapely.geometry", fix).box
    area = box(0, 0, 4, 3).intersection(box(1, 1, 9, 9)).area
    if area != 6:
        return problem(f"cuts an area of {area} in place of 6", f"{fix} --force-reinstall")
    return ok(f"{release(load('shapely', fix))}, cuts polygons")


def others() -> Finding:
    missing = [package for name, package in REQUIRED.items() if not is_there(name)]
    if missing:
        return problem(f"not installed: {', '.join(missing)}", f"{INSTALL} {' '.join(missing)}")
    return ok(", ".join(REQUIRED.values()))


def extras() -> Finding:
    there, absent, broken = [], [], []
    for name, (package, purpose) in OPTIONAL.items():
        if not is_there(name):
            absent.append(f"{package} ({purpose})")
            continue
        try:
            there.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            broken.append(package)
    text = "; ".join(
        f"{title} {', '.join(names)}"
        for title, names in (("there:", there), ("not installed:", absent))
        if names
    )
    if broken:
        found = f"files of {', '.join(broken)} are there, but no such package; {text}"
        return warning(found, f"{INSTALL} --force-reinstall {' '.join(broken)}")
    return ok(text)


def is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: a module without a spec
        return False


CHECKS = (
    Check("Python", python),
    Check("torch", torch),
    Check("torchvision", torchvision, needs=("torch",)),
    Check("numpy", numpy),
    Check("Pillow", pillow),
    Check("OpenCV", opencv),
    Check("pycocotools", pycocotools, needs=("numpy",)),
    Check("fvcore", fvcore, needs=("torch",)),
    Check("shapely", shapely),
    Check("other packages", others),
    Check("optional packages", extras),
)
