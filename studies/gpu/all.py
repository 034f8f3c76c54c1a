"""Everything that a few minutes of a GPU are needed for, the most important first.

    python -m studies.gpu.all [--budget-s 840] [--output results]

It runs the parts of :data:`studies.gpu.parts.PARTS` one after another, each in a process of its
own, so that a kernel that fails or hangs ends one part only. A part writes its record
``gpu_PART.json`` after every row that it has measured. ``gpu_all.json`` says what became of each
part; it is written after every part. When the time is up, the rest is left out.

    python -m studies.gpu.all --device cpu --tiny --output output/gpu

tries all of this on a CPU; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import torch

from lambda_det.errors import InputError, exit_on_input_error, first_line_of, writing
from lambda_det.io import write_json
from lambda_det.records import make_record, record_path, results_folder
from studies.gpu.parts import PARTS, SEED, Setting

SUMMARY = "gpu_all"
LEAST_S = 15
"""A part that has less time is left out: a process needs some seconds before it measures."""


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda or cpu (cuda)")
    parser.add_argument(
        "--budget-s", type=int, default=840, help="seconds after which all is over (840)"
    )
    parser.add_argument(
        "--output", default=str(results_folder()), metavar="DIR", help="folder of records (results)"
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--tiny", action="store_true", help="sizes for a trial on a CPU")
    parser.add_argument("--inside", metavar="DIR", help=argparse.SUPPRESS)  # of run_part
    args = parser.parse_args(argv)
    _check(args)
    if args.inside:
        (part,) = args.parts
        measure(part, Setting(args.device, args.tiny, args.inside), args)
        return 0
    rows = run_parts(args)
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    return 0 if all(row["status"] == "done" for row in rows) else 1


def _check(args: argparse.Namespace) -> None:
    if args.device not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device}: expected cpu or cuda")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU; expected cpu (with --tiny)")
    if args.budget_s < LEAST_S:
        raise InputError(f"--budget-s {args.budget_s}: expected {LEAST_S} or more")


def run_parts(args: argparse.Namespace) -> list[dict]:
    """Run the parts in their order, until the time is up.

    Returns:
        A row for each part: its name, what became of it, how long it took, and its record.
    """
    end = time.monotonic() + args.budget_s
    rows: list[dict] = []
    for name in [name for name in PARTS if name in args.parts]:
        start = time.monotonic()
        limit = min(PARTS[name].most_s, end - start - 1)
        status = run_part(name, args, limit) if limit >= LEAST_S else "left out: the time was up"
        seconds = round(time.monotonic() - start, 1)
        rows.append({"part": name, "status": status, "wall_s": seconds, "record": f"gpu_{name}"})
        write_rows(SUMMARY, rows, args)
        print(f"{name}: {status}, {seconds} s", file=sys.stderr, flush=True)
    return rows


def run_part(name: str, args: argparse.Namespace, limit: float) -> str:
    """Run one part in a process of its own, for at most ``limit`` seconds."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [sys.executable, "-m", "studies.gpu.all", *_words(args)]
        process = subprocess.Popen(
            [*words, "--parts", name, "--inside", folder], start_new_session=True
        )
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s: its record has what was measured until then"
        finally:
            if process.poll() is None:  # with the processes of its loaders
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return "done" if status == 0 else f"failed with exit status {status}"


def measure(name: str, setting: Setting, args: argparse.Namespace) -> None:
    """Measure a part, and write its record after every row."""
    rows: list[dict] = []
    write_rows(f"gpu_{name}", rows, args)  # no earlier run's rows are left
    try:
        for row in PARTS[name].rows(setting):
            rows.append(row)
            write_rows(f"gpu_{name}", rows, args)
    except Exception as error:
        raise InputError(f"{name}: {type(error).__name__}: {first_line_of(error)}") from error


def write_rows(name: str, rows: Sequence[dict], args: argparse.Namespace) -> None:
    """Write a record into the folder of the records."""
    command = shlex.join(["python", "-m", "studies.gpu.all", *_words(args, with_output=False)])
    path = record_path(args.output, name)
    packages = ("triton",)
    with writing(path):
        os.makedirs(args.output, exist_ok=True)
        write_json(make_record(command, rows, seeds=[SEED], packages=packages), path)


def _words(args: argparse.Namespace, *, with_output: bool = True) -> list[str]:
    words = ["--device", args.device, "--budget-s", str(args.budget_s)]
    if with_output:
        words += ["--output", args.output]
    return words + (["--tiny"] if args.tiny else [])


if __name__ == "__main__":
    sys.exit(main())
