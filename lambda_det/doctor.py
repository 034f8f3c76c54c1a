"""Check whether the environment can train and evaluate, and say how to fix what does not work.

The checks cover the versions of the packages, detectron2, the GPU, datasets and disk space. The
exit status is 1 if a check found a problem, and 0 otherwise.

``lambda_det doctor`` and ``python tools/doctor.py`` run this file without importing the package
``lambda_det``, so that it also works if torch or detectron2 is missing or broken. The file itself
imports only the standard library; each check imports what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# From good to bad. A warning means that training runs, but without some feature or slowly.
OK, WARNING, PROBLEM = STATUSES = ("ok", "warning", "problem")
TOOL = "lambda_det {}" if Path(__file__).with_name("shipped").is_dir() else "python tools/{}.py"
INSTALL = "python -m pip install"
PAIR = "install torch 2.N with torchvision 0.(N+15), see https://pytorch.org/get-started/locally/"
HEADLESS = (
    f"python -m pip uninstall --yes opencv-python && {INSTALL} --force-reinstall --no-deps "
    "opencv-python-headless (it needs no libGL; detectron2 cannot be imported without OpenCV)"
)
DETECTRON2 = (
    "install it for this torch, see https://detectron2.readthedocs.io/tutorials/install.html, or "
    f"run {TOOL.format('install_detectron2')} (Python only, no compiler)"
)
# Module -> its name for pip. torch, torchvision, OpenCV and detectron2 have their own checks.
PACKAGES = {
    "numpy": "numpy", "PIL.Image": "Pillow", "pycocotools.mask": "pycocotools", "yaml": "PyYAML",
    "fvcore.common.config": '"fvcore>=0.1.5,<0.1.6"', "shapely.geometry": '"shapely>=2.0"',
} | {name: name for name in ("matplotlib", "tabulate", "jinja2", "psutil", "scipy", "yacs",
    "iopath", "omegaconf", "tensorboard", "tqdm", "termcolor", "cloudpickle")}  # fmt: skip
# Names that older detectron2 sources use and newer libraries have removed: the pattern of the name,
# its module, and a command that installs a version which still has it.
DROPPED = (
    (r"\bnp\.(bool|int|float|str|object|long)\b", "numpy", f'{INSTALL} "numpy<1.24"'),
    (r"\bImage\.(LINEAR|ANTIALIAS)\b", "PIL.Image", f'{INSTALL} "Pillow<10"'),
)
GIB = 2**30


class Trouble(Exception):
    """What a check found wrong.

    Args:
        found: the finding.
        fix: how to fix it; "" = the check's usual advice.
        status: ``WARNING`` or ``PROBLEM``.
    """

    def __init__(self, found: str, fix: str = "", status: str = PROBLEM) -> None:
        super().__init__(found)
        self.fix, self.status = fix, status


def one_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def check_packages() -> str:
    found, fixes = [], []
    for name, package in PACKAGES.items():
        try:
            importlib.import_module(name)
        except Exception as error:
            there = importlib.util.find_spec(name.partition(".")[0]) is not None
            found.append(one_line(error))
            fixes.append(f"{INSTALL} {'--force-reinstall --no-deps ' * there}{package}")
    if found:
        raise Trouble("; ".join(found), " && ".join(fixes))
    return f"{len(PACKAGES)} of them can be imported"


def check_torch() -> str:
    import torch

    torch.zeros(2).numpy()
    gpus = torch.version.cuda or torch.version.hip
    return f"{torch.__version__}, built for {f'GPUs ({gpus})' if gpus else 'CPUs alone'}"


def check_gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        if not any(Path("/dev").glob("nvidia[0-9]*")):
            advice = "add MODEL.DEVICE cpu to every command to train and evaluate on the CPU"
            raise Trouble("no GPU found (no /dev/nvidia*)", advice, WARNING)
        if not torch.version.cuda:
            raise Trouble("a GPU exists, but this torch is built without CUDA")
        torch.cuda.init()  # raises an error that gives the reason
        raise Trouble("a GPU exists, but torch does not find it")
    for index in range(torch.cuda.device_count()):
        image = torch.ones(1, 8, 8, 8, device=f"cuda:{index}", requires_grad=True)
        torch.nn.functional.conv2d(image, image).backward()
        torch.cuda.synchronize(index)
    return f"{torch.cuda.device_count()} {torch.cuda.get_device_name()}, a convolution works"


def check_torchvision() -> str:
    """Run one compiled operator on each device: torchvision is built for one release of torch."""
    import torch

    release = importlib.metadata.version("torchvision")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        try:
            boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]], device=device)
            importlib.import_module("torchvision.ops").nms(boxes, boxes[:, 3], 0.5).tolist()
        except Exception as error:
            found = f"{release} does not fit torch {torch.__version__} on {device}"
            raise Trouble(f"{found}: {one_line(error)}") from error
    return f"{release}, its nms runs on {' and '.join(devices)}"


def detectron2_folder() -> Path:
    spec = importlib.util.find_spec("detectron2")  # imports nothing
    if spec is None or spec.origin is None:
        raise Trouble("detectron2 is not installed")
    return Path(spec.origin).parent


def check_detectron2() -> str:
    sources = sorted(detectron2_folder().rglob("*.py"))
    for pattern, name, fix in DROPPED:  # before the import, which these names can make fail
        library = importlib.import_module(name)
        for path in sources:
            for use in re.finditer(pattern, path.read_text(encoding="utf-8")):
                if not hasattr(library, use[1]):
                    found = f"{path} uses {use[0]}, which {name} no longer has"
                    raise Trouble(found, f"{fix}; or use a newer detectron2, or {DETECTRON2}")
    for name in ("detectron2.modeling", "detectron2.data"):
        importlib.import_module(name)
    with contextlib.suppress(ModuleNotFoundError):  # no shipped config needs the compiled part
        importlib.import_module("detectron2._C")
    return str(importlib.import_module("detectron2").__version__)


def check_lambda_det() -> str:
    import lambda_det
    from lambda_det.compat import detectron2_flavour

    folder = Path(lambda_det.__file__).parent
    return f"{lambda_det.__version__} in {folder}, on detectron2 {detectron2_flavour()}"


def check_shared_memory() -> str:
    """The workers of a data loader pass their images through shared memory."""
    if not Path("/dev/shm").is_dir():
        return "this system has no /dev/shm"
    size = shutil.disk_usage("/dev/shm").total / GIB
    text = f"/dev/shm of {size:.2g} GiB"
    if size < 1:
        raise Trouble(f"{text}: data loader workers may fail with a bus error", "", WARNING)
    return text


def check_disk() -> str:
    folder = Path("output" if Path("output").is_dir() else ".").absolute()
    with tempfile.TemporaryFile(dir=folder) as file:  # an error names the folder
        file.write(b"0" * 4096)
    free = shutil.disk_usage(folder).free / GIB
    text = f"{folder} can be written, {free:.1f} GiB free"
    if free < 5:  # a checkpoint of λ-101 with its optimiser is 0.5 GiB
        fix = "free some space, set OUTPUT_DIR to another disk, or set SOLVER.CHECKPOINT_KEEP 2"
        found = f"{text}: room for few checkpoints or none"
        raise Trouble(found, fix, WARNING if free > 0.5 else PROBLEM)
    return text


def check_datasets() -> str:
    """Look for COCO, and folders in its layout, where a training would; no json is read."""
    from lambda_det.data.registering.coco_folder import ENVIRONMENT_VARIABLE, register_splits

    named = os.path.expanduser(os.environ.get(ENVIRONMENT_VARIABLE, ""))
    stock = os.path.join(os.environ.get("DETECTRON2_DATASETS", "datasets"), "coco")
    sets = {folder: register_splits(folder) for folder in (named, stock) if folder}
    if named and not sets[named]:
        raise Trouble(
            f"{ENVIRONMENT_VARIABLE}={named}: no such folder, or no split with images in it",
            "it needs annotations/instances_SPLIT.json and SPLIT/*.jpg; or unset the variable",
        )
    if not any(sets.values()):
        raise Trouble(f"none in {stock}, and {ENVIRONMENT_VARIABLE} is not set", "", WARNING)
    return "; ".join(f"{folder}: {', '.join(names)}" for folder, names in sets.items() if names)


# Name, check, usual advice, and the names of the checks that it depends on, which come before it.
Check = tuple[str, Callable[[], str], str, tuple[str, ...]]
CHECKS: tuple[Check, ...] = (
    ("Python", lambda: f"{platform.python_version()}, {sys.executable}", "", ()),
    ("other packages", check_packages, "bash tools/setup_env.sh makes an environment", ()),
    ("torch", check_torch, f'{PAIR}; if Numpy is not available: {INSTALL} "numpy<2"', ()),
    ("GPU", check_gpu, "run nvidia-smi (is the GPU occupied, or its driver too old for torch?) and "
        f"look at CUDA_VISIBLE_DEVICES; or {PAIR}", ("torch",)),
    ("torchvision", check_torchvision, PAIR, ("torch",)),
    ("OpenCV", lambda: str(importlib.import_module("cv2").__version__), HEADLESS, ()),
    ("detectron2", check_detectron2, DETECTRON2,
        ("other packages", "torch", "torchvision", "OpenCV")),
    ("lambda_det", check_lambda_det,
        "install lambda_det again (in a checkout: python -m pip install -e .)", ("detectron2",)),
    ("shared memory", check_shared_memory,
        "docker run --shm-size=8g (or --ipc=host), or DATALOADER.NUM_WORKERS 0", ()),
    ("disk", check_disk, "work in a folder that you can write, or set OUTPUT_DIR to one", ()),
    ("datasets", check_datasets, "add DATASETS.COCO_FOLDER /path/to/coco to a command; to try with "
        f"made images: {TOOL.format('make_shapes_dataset')} --output output/shapes",
        ("lambda_det",)),
)  # fmt: skip


def examine(checks: Sequence[Check] = CHECKS) -> list[dict[str, Any]]:
    """Run the checks one after another.

    An error in one check does not stop the others. A check that depends on a failed one is not run.

    Returns:
        ``{"name", "status", "found", "fix", "seconds"}`` of each check; fix is "" if the status is
        ``OK``.
    """
    rows: list[dict[str, Any]] = []
    blame: dict[str, str] = {}  # failed check, or check that was not run -> the check that failed
    for name, check, advice, needs in checks:
        start, status, fix = time.perf_counter(), OK, ""
        culprit = next((blame[need] for need in needs if need in blame), "")
        try:
            if culprit:
                found = f"not checked, because {culprit} has a problem"
                raise Trouble(found, f"fix {culprit} first", WARNING)
            found = check()
        except Trouble as trouble:
            status, found, fix = trouble.status, str(trouble), trouble.fix or advice
        except (Exception, SystemExit) as error:  # a broken library can raise any exception
            status, found, fix = PROBLEM, one_line(error), advice
        if culprit or status == PROBLEM:
            blame[name] = culprit or name
        seconds = round(time.perf_counter() - start, 3)
        rows.append(dict(name=name, status=status, found=found, fix=fix, seconds=seconds))
    return rows


def environment() -> str:
    """The report of detectron2's ``collect_env``, or one line if that cannot be imported."""
    try:
        return str(importlib.import_module("detectron2.utils.collect_env").collect_env_info())
    except (Exception, SystemExit) as error:
        return f"detectron2's collect_env does not run here ({one_line(error)})"


def as_table(data: dict[str, Any]) -> str:
    """Format the report: the environment, one line for each check with its fix below, a summary."""
    # What follows is a page of PyTorch's compiler flags.
    table, _, _ = data["environment"].partition("\nPyTorch built with")
    rows, lines = data["findings"], [table.rstrip(), ""]
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        lines.append(f"{row['status']:<7}  {row['name']:<{width}}  {row['found']}")
        lines += [f"{'fix':>{width + 9}}  {row['fix']}"] * bool(row["fix"])
    ended = (f"{status} {sum(row['status'] == status for row in rows)}" for status in STATUSES)
    lines += ["", f"{len(rows)} checks in {data['seconds']:.1f} s: {', '.join(ended)}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print what they found.

    Returns:
        The exit status: 0 without a problem, 1 with one, 2 if ``--output`` cannot be written.
    """
    parser = argparse.ArgumentParser(
        "lambda_det doctor", description=" ".join(__doc__.split("\n\n")[:2])
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--output", metavar="O.json", help="also write the JSON to this file")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        rows, about = examine(), environment()
    logging.disable(logging.NOTSET)
    status = max((row["status"] for row in rows), key=STATUSES.index)
    seconds = round(sum(row["seconds"] for row in rows), 3)
    data = dict(schema=1, status=status, seconds=seconds, findings=rows, environment=about)
    text = json.dumps(data, indent=2, ensure_ascii=False)
    sys.stdout.write(f"{text if options.json else as_table(data)}\n")
    if options.output:
        try:
            Path(options.output).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            sys.stderr.write(f"error: --output {options.output}: cannot be written ({error})\n")
            return 2
    return int(status == PROBLEM)


if __name__ == "__main__":
    sys.exit(main())
