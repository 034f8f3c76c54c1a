"""Fuzz the readers of annotations, detections and masks, and record the findings."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import check_writable, write_json
from lambda_det.records import make_record
from studies.fuzz.mutations import Step, changed, random_steps
from studies.fuzz.targets import TARGETS

PATIENCE_S = 20.0  # seconds after which a case is a hang
_MEMORY = 4 << 30  # bytes that a case may allocate in addition to the loaded process
_FORK = multiprocessing.get_context("fork")


def fuzz(seconds: float, seed: int, *, cases: int | None = None) -> list[dict]:
    """Fuzz the targets in turn.

    Args:
        seconds: time for all targets together.
        seed: together with its number, it determines a case.
        cases: largest number of cases; None means no limit.

    Returns:
        A row for each target, with its findings.
    """
    rows = {name: _new_row(name) for name in TARGETS}
    lines: dict[str, set] = {name: set() for name in TARGETS}
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end and (cases is None or number < cases):
        ours, theirs = _FORK.Pipe(duplex=False)
        worker = _FORK.Process(target=_work, args=(theirs, seed, number, cases), daemon=True)
        worker.start()
        theirs.close()
        verdict = "started"
        while verdict is not None and time.monotonic() < end:
            verdict = _next(ours, worker)
            if verdict is None:
                break
            name, what, detail, took = verdict
            _count(rows[name], lines[name], what, detail, took, seed, number)
            number += 1
            if what in ("crash", "hang"):
                break
        worker.kill()
        worker.join()
        if verdict is None and cases is not None:
            break
    for name, row in rows.items():
        row["kinds_of_line"] = len(lines[name])
    return list(rows.values())


def steps_of(seed: int, number: int) -> tuple[str, list[Step]]:
    """The name of the target and the changes of the case ``number``."""
    rng = random.Random(f"{seed} {number}")
    name = list(TARGETS)[number % len(TARGETS)]
    return name, random_steps(TARGETS[name].base, rng)


def verdict_of(name: str, steps: Sequence[Step], seed: int, number: int, folder: Path):
    """Run a case in this process.

    Returns:
        ``"accepted"`` and an empty text; ``"refused"`` and the error line with its values replaced
        by ``#``; or ``"error"`` and the type, place and text of the unexpected exception.
    """
    target = TARGETS[name]
    try:
        target.run(changed(target.base, list(steps)), random.Random(f"{number} {seed}"), folder)
    except InputError as error:
        return "refused", re.sub(r"\d+|'.*?'|\[.*\]|\{.*\}", "#", str(error))
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "fuzz" not in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "check"
        return "error", f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:200]}"
    return "accepted", ""


def _new_row(name: str) -> dict:
    return {"target": name, "cases": 0, "accepted": 0, "refused": 0, "kinds_of_line": 0,
            "slowest_s": 0.0, "findings": []}  # fmt: skip


def _count(row: dict, lines: set, what: str, detail: str, took: float, seed: int, number: int):
    row["cases"] += 1
    row["slowest_s"] = max(row["slowest_s"], round(took, 3))
    if what in ("accepted", "refused"):
        row[what] += 1
        if what == "refused":
            lines.add(detail)
        return
    key = detail.split(":")[0:2]
    if any(finding["error"].split(":")[0:2] == key for finding in row["findings"]):
        return
    name, steps = steps_of(seed, number)
    small = minimised(name, steps, seed, number)
    shown = [[kind, list(path), repr(more)[:300]] for kind, path, more in small]
    row["findings"].append({"case": number, "error": detail, "steps": shown})


def minimised(name: str, steps: list[Step], seed: int, number: int) -> list[Step]:
    """Leave out the steps that the finding does not need."""
    for step in list(steps):
        fewer = [other for other in steps if other is not step]
        if fewer and _probe(name, fewer, seed, number) not in ("accepted", "refused"):
            steps = fewer
    return steps


def _probe(name: str, steps: list[Step], seed: int, number: int) -> str:
    ours, theirs = _FORK.Pipe(duplex=False)

    def run() -> None:
        _limit_process()
        logging.disable()
        with tempfile.TemporaryDirectory() as folder:
            theirs.send(verdict_of(name, steps, seed, number, Path(folder))[0])

    worker = _FORK.Process(target=run, daemon=True)
    worker.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(PATIENCE_S) else "hang"
    except EOFError:
        return "crash"
    finally:
        worker.kill()
        worker.join()


def _work(connection, seed: int, number: int, cases: int | None) -> None:
    """Run cases from ``number`` on in a worker process, until it is killed."""
    _limit_process()
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        while cases is None or number < cases:
            name, steps = steps_of(seed, number)
            connection.send((name, "begin", "", 0.0))
            start = time.monotonic()
            what, detail = verdict_of(name, steps, seed, number, _folder(folder, name))
            connection.send((name, what, detail, time.monotonic() - start))
            number += 1


def _next(connection, worker):
    """The verdict of the worker's next case; None if there is no further case."""
    try:
        name = connection.recv()[0]
    except EOFError:
        return None
    if not connection.poll(PATIENCE_S):
        return name, "hang", f"no answer within {PATIENCE_S:.0f} s", PATIENCE_S
    try:
        return connection.recv()
    except EOFError:
        worker.join()
        code = -(worker.exitcode or 0)
        cause = signal.Signals(code).name if code > 0 else f"status {worker.exitcode}"
        return name, "crash", f"the process ended by {cause}", 0.0


def _folder(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir(exist_ok=True)
    return path


def _limit_process() -> None:
    """Limit the memory of this process, and its threads: those of the process that it is a copy of
    do not exist here, and PyTorch would wait for them."""
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def totals(rows: list[dict]) -> Counter:
    """Sums over all targets of cases, accepted, refused and findings."""
    found = Counter()
    for row in rows:
        found.update({key: row[key] for key in ("cases", "accepted", "refused")})
        found["findings"] += len(row["findings"])
    return found


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all targets (10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases (0)")
    parser.add_argument("--output", metavar="JSON", help="write a record of the findings")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < float("inf"):
        raise InputError(f"--minutes {args.minutes}: expected a finite number above 0")
    if args.output:
        check_writable(args.output)
    rows = fuzz(60 * args.minutes, args.seed)
    for row in rows:
        row["minutes_of_all"] = args.minutes
        print({key: value for key, value in row.items() if key != "findings"})
        for finding in row["findings"]:
            print(json.dumps(finding, indent=1))
    if args.output:
        arguments = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "tools/fuzz.py", *arguments])
        write_json(make_record(command, rows, seeds=[args.seed]), args.output)
    found = totals(rows)
    print(", ".join(f"{count} {name}" for name, count in found.items()))
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
