"""GPU, cores, memory and disk."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .findings import Check, Finding, ok, one_line, problem, warning
from .packages import PAIR, load, or_broken

GIB = 2**30
LEAST_SHARED_MEMORY = 1 * GIB
LEAST_DISK, FEW_DISK = GIB // 5, 5 * GIB  # a checkpoint of λ-101 with its optimiser is 0.5 GiB
CPU_ALONE = "MODEL.DEVICE cpu behind every command trains and evaluates on the CPU"


@or_broken
def gpu() -> Finding:
    torch = load("torch", PAIR)
    built, driver = torch.version.cuda or getattr(torch.version, "hip", None), nvidia_driver()
    if not torch.cuda.is_available():
        if not driver:
            return warning("none seen, no NVIDIA driver", CPU_ALONE)
        if not built:
            return problem(f"NVIDIA driver {driver}, but torch is built for the CPU alone", PAIR)
        return problem(
            f"NVIDIA driver {driver}, but torch for CUDA {built} sees no GPU{_why(torch)}",
            "look at CUDA_VISIBLE_DEVICES and nvidia-smi; a driver that is too old needs a torch "
            f"for an earlier CUDA: {PAIR}",
        )
    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        try:
            ones = torch.ones(8, 8, device=f"cuda:{index}")
            works = float((ones @ ones).sum()) == 512
        except Exception as error:
            return problem(
                f"{device.name}: {one_line(error)}",
                f"this torch is not built for it, or it is occupied (see nvidia-smi): {PAIR}",
            )
        if not works:
            return problem(f"{device.name}: computes a wrong product", "see nvidia-smi and dmesg")
        names.append(
            f"{device.name} ({device.total_memory / GIB:.0f} GiB, "
            f"capability {device.major}.{device.minor})"
        )
    half = "with" if torch.cuda.is_bf16_supported() else "without"
    return ok(f"{', '.join(names)}; {half} bfloat16; driver {driver or 'unknown'}, CUDA {built}")


def nvidia_driver() -> str:
    """The driver's release; "present" where a device is there without its tool, "" without."""
    tool = shutil.which("nvidia-smi")
    if tool:
        command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            result = None
        if result is not None and result.returncode == 0 and result.stdout.strip():
            return result.stdout.split()[0]
    return "present" if Path("/dev/nvidia0").exists() else ""


def _why(torch) -> str:
    try:
        torch.cuda.init()
    except Exception as error:
        return f" ({one_line(error)})"
    return ""


@or_broken
def kernel() -> Finding:
    """The lambda layer's own kernel, against the plain sum where it can run."""
    torch = load("torch", PAIR)
    triton = importlib.import_module("lambda_det.layers.triton_lambda")
    lambdas = importlib.import_module("lambda_det.layers").position_lambda
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 16, 9, 7), (1, 1, 16, 9, 7), (16, 1, 5, 5)
    tensors = [torch.randn(*shape, generator=generator).to(device) for shape in shapes]
    reason = triton.unsupported(*tensors)
    if reason:
        return ok(f"not used here, {reason[0].lower()}{reason[1:]}; the other back ends serve")
    try:
        result = lambdas(*tensors, backend="triton")
        error = float((result - lambdas(*tensors, backend="reference")).abs().max())
    except Exception as failure:
        return warning(
            f"fails on {device}: {one_line(failure)}",
            "leave MODEL.LAMBDA_RESNET.LAYER.BACKEND at auto, which does without it",
        )
    if not error < 0.1:  # TF32 products of 400 numbers
        return problem(
            f"differs from the plain sum by {error:.2g}",
            "leave MODEL.LAMBDA_RESNET.LAYER.BACKEND at auto, which does without it",
        )
    return ok(f"runs on {device} (BACKEND triton), within {error:.1e} of the plain sum")


@or_broken
def cores() -> Finding:
    torch = load("torch", PAIR)
    count, threads = usable_cores(), torch.get_num_threads()
    settings = [
        f"{name}={os.environ[name]}"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        if os.environ.get(name)
    ]
    memory = total_memory()
    text = f"{count} usable, torch takes {threads} thread{'' if threads == 1 else 's'}"
    text += f" ({', '.join(settings)})" if settings else ""
    text += f"; {memory / GIB:.0f} GiB of memory" if memory else ""
    if threads > count:  # they wait for each other
        return warning(f"{text}, which is slow", f"export OMP_NUM_THREADS={count}")
    return ok(text)


def usable_cores() -> int:
    """Cores that this process may run on, by affinity and by the container's share."""
    known = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    try:
        share, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, math.ceil(int(share) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return count


def total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def shared_memory() -> Finding:
    """Through it the workers of a data loader hand their images over."""
    try:
        status = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return ok("no /dev/shm on this system")
    size = status.f_frsize * status.f_blocks
    text = f"/dev/shm of {size / GIB:.2g} GiB"
    if size < LEAST_SHARED_MEMORY:
        return warning(
            f"{text}: the workers that load images may die of a bus error",
            "docker run --shm-size=8g (or --ipc=host), or DATALOADER.NUM_WORKERS 0",
        )
    return ok(text)


def disk() -> Finding:
    """Whether a training can write here."""
    folders = [folder for folder in (Path.cwd(), Path("output").absolute()) if folder.is_dir()]
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0" * 4096)
        except OSError as error:
            return problem(
                f"{folder} cannot be written ({error.strerror or error})",
                "work in a folder of yours, or name one: OUTPUT_DIR /path/to/write",
            )
    free = shutil.disk_usage(folders[-1]).free
    text = f"{' and '.join(map(_short, folders))} can be written, {free / GIB:.1f} GiB free"
    fix = "make room, name a folder on another disk by OUTPUT_DIR, or SOLVER.CHECKPOINT_KEEP 2"
    if free < LEAST_DISK:
        return problem(f"{text}: no room for a checkpoint", fix)
    return warning(f"{text}: room for few checkpoints", fix) if free < FEW_DISK else ok(text)


def _short(folder: Path) -> str:
    return "." if folder == Path.cwd() else f"./{folder.relative_to(Path.cwd())}"


CHECKS = (
    Check("GPU", gpu, needs=("torch",)),
    Check("lambda kernel", kernel, needs=("torch", "lambda_det")),
    Check("cores", cores, needs=("torch",)),
    Check("shared memory", shared_memory),
    Check("disk", disk),
)
