"""Records of measurements, ``results/<name>.json``.

These functions are outside the sub-packages, because sub-packages that must not import each other
(``analysis`` and ``evaluation``) use them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from lambda_det.errors import InputError
from lambda_det.shipped_configs import ROOT
from lambda_det.version import __version__

IN_CHECKOUT = (ROOT / "lambda_det").is_dir()
"""Whether the package is imported from a checkout (or an editable installation of one)."""

SCHEMA = 1
_PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "pycocotools")


def make_record(
    command: str,
    rows: Sequence[Mapping],
    seeds: Sequence[int] = (),
    *,
    packages: Sequence[str] = (),
    with_gpu: bool = True,
) -> dict:
    """Return a record: the measured rows with the command, commit, date, hardware and versions.

    Args:
        command: the command that measures the rows, as run in the root of the checkout.
        rows: measurements; the names contain the unit (``box_ap50``, ``train_s_per_iteration``).
        seeds: random seeds of the runs; empty if nothing is random.
        packages: packages whose versions are recorded in addition to torch, torchvision,
            detectron2, numpy and pycocotools.
        with_gpu: whether the measurement used this machine's GPU.
    """
    machine = hardware()
    return {
        "schema": SCHEMA,
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": machine if with_gpu else machine | {"gpu": None},
        "versions": _versions((*_PACKAGES, *packages)),
        "seeds": list(seeds),
        "rows": list(rows),
    }


def tool_words(name: str) -> list[str]:
    """How a user starts a command: in the root of the checkout, or anywhere with the wheel."""
    return ["python", f"tools/{name}.py"] if IN_CHECKOUT else ["lambda_det", name]


def tool_command(name: str, words: Iterable[str]) -> str:
    """:func:`tool_words` with the words after them, as one would type it."""
    return shlex.join([*tool_words(name), *words])


def results_folder() -> Path:
    """The folder of the records: the checkout's, or ``results/`` in the current folder."""
    return ROOT / "results" if IN_CHECKOUT else Path("results").absolute()


def record_path(results: str, name: str, flag: str = "--record") -> str:
    """Return the path of a record.

    Args:
        results: folder of the records.
        name: name of the record without ``.json``.
        flag: option of the command that contains the name, for the error message.

    Raises:
        InputError: the name contains characters that are not allowed, such as ``/``.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name.endswith(".json"):
        raise InputError(
            f"{flag} {name!r}: expected a name of letters, digits, '_', '-' and '.' that begins "
            "with a letter or digit and does not end in '.json'"
        )
    return os.path.join(results, f"{name}.json")


def provenance(record: Mapping) -> str:
    """Return the record's command, hardware and date as one line of Markdown."""
    machine = record["hardware"]
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return f"`{record['command']}` ({device}, {record['date']})"


def markdown_row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table; ``|`` is escaped and line breaks become spaces."""
    texts = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(texts) + " |"


def cpu_name() -> str:
    """Return the name of the CPU."""
    cpu = platform.processor() or platform.machine()
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
        cpu = found[1] if found else cpu
    return cpu


def hardware() -> dict[str, object]:
    """Return the name of the CPU, its number of cores, and the name of the GPU (None = no GPU)."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu}


def _commit() -> str | None:
    """Return the commit, with ``+`` if tracked files were changed; None outside a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        command = ["git", "-C", here, "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version(), "lambda_det": __version__}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # the package is a checkout on PYTHONPATH
            versions[name] = "source"
    return versions
