"""Train for a long time, and check that memory, file handles and threads do not grow."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from detectron2.utils.logger import setup_logger

from lambda_det.comparison.processes import PROJECT, last_line
from lambda_det.engine.run_state import METRICS_FILE
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import write_json
from lambda_det.records import record_path, results_folder
from studies.endurance.process_tree import Identity, shared_memory, usage_of_tree
from studies.endurance.soak_figures import Sample, figures
from studies.endurance.tiny_training import CONFIG, TINY, make_dataset, record_of, start_training
from studies.tables import figures_table

logger = logging.getLogger("lambda_det.soak")

CHECKPOINTS, EVALUATIONS = 40, 10
"""Number of checkpoints and of evaluations of the training, at regular intervals."""
SAMPLE_S = 0.1
SAMPLES_FILE = "samples.jsonl"
_ENDING_S = 10  # seconds that worker processes may take to end after the training
_TAIL = 1 << 16  # bytes; a line of metrics is shorter


def run_soak(output: str, iterations: int, *, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Train for ``iterations``, watch the processes, and return the row of a record.

    Args:
        output: a folder, which must not exist, for the log, ``samples.jsonl`` and the run.
        iterations: at least 80, so that each quarter has a line of metrics.
        overrides: ``KEY VALUE`` pairs for the config.

    Raises:
        InputError: the folder exists, the system is not Linux, or the training failed.
    """
    if os.path.exists(output):
        raise InputError(f"--output {output}: exists already; name a new folder")
    if iterations < 80:
        raise InputError(f"--iterations {iterations}: at least 80 are needed")
    if sys.platform != "linux":
        raise InputError(f"{sys.platform}: Linux is needed, whose /proc gives memory and handles")
    data, run = os.path.join(output, "shapes"), os.path.join(output, "run")
    make_dataset(data, num_val=2)
    command = [
        sys.executable, "-W", "ignore", os.path.join(PROJECT, "tools", "train_net.py"),
        "--config-file", CONFIG, *TINY.split(), "MODEL.LAMBDA_RESNET.DEPTH", "26",
        "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "64", "SOLVER.BASE_LR", "0.005",
        "SOLVER.MAX_ITER", str(iterations), "DATALOADER.NUM_WORKERS", "1",
        "SOLVER.CHECKPOINT_PERIOD", str(iterations // CHECKPOINTS), "SOLVER.CHECKPOINT_KEEP", "2",
        "TEST.EVAL_PERIOD", str(iterations // EVALUATIONS),
        "DATASETS.COCO_FOLDER", data, "OUTPUT_DIR", run, *overrides,
    ]  # fmt: skip
    log = os.path.join(output, "log.txt")
    start = time.monotonic()
    process = start_training(command, log)
    try:
        samples = watch(process, os.path.join(run, METRICS_FILE), iterations)
    finally:
        process.kill()  # it still runs only after an error in watch()
        process.wait()
    seconds = time.monotonic() - start
    write_samples(samples, os.path.join(output, SAMPLES_FILE))
    if process.returncode:
        raise InputError(f"the training ended with {process.returncode}: {last_line(log)}")
    if not samples:
        raise InputError(f"the training wrote no {METRICS_FILE}")
    seen = {identity for sample in samples for identity in sample.tree}
    row = figures(
        samples,
        segments_left=len(shared_memory({pid for pid, _ in seen})),
        processes_left=_still_running(seen),
    )
    return row | {"wall_s": round(seconds, 1)}


def watch(process: subprocess.Popen, metrics: str, iterations: int) -> list[Sample]:
    """Sample the processes of a training from its first line of metrics to its last iteration.

    Later samples would be of no use, since the training then ends its workers.
    """
    samples: list[Sample] = []
    while process.poll() is None:
        iteration = _iteration(metrics)
        tree = usage_of_tree(process.pid)
        if iteration is not None and iteration < iterations and tree:
            if not samples or samples[-1].iteration // 100 != iteration // 100:
                mib = sum(usage.rss_kib for usage in tree.values()) / 1024
                logger.info("iteration %d: %.1f MiB in %d processes", iteration, mib, len(tree))
            samples.append(Sample(iteration, tree))
        time.sleep(SAMPLE_S)
    return samples


def write_samples(samples: Sequence[Sample], path: str) -> None:
    """Write a JSON line for each sample: iteration, and [memory, handles, threads] by process."""
    with open(path, "w", encoding="utf-8") as file:
        for sample in samples:
            tree = {
                pid: [usage.rss_kib, usage.handles, usage.threads]
                for (pid, _), usage in sample.tree.items()
            }
            file.write(json.dumps({"iteration": sample.iteration, "processes": tree}) + "\n")


def remove_run(output: str) -> None:
    """Remove the dataset and the run with its checkpoints; the log and the samples stay."""
    for name in ("run", "shapes"):
        shutil.rmtree(os.path.join(output, name), ignore_errors=True)


def _iteration(metrics: str) -> int | None:
    """Number of finished iterations by the last complete line of a metrics file, or None."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, os.path.getsize(metrics) - _TAIL))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1])["iteration"] + 1 if whole else None


def _still_running(seen: set[Identity]) -> int:
    end = time.monotonic() + _ENDING_S
    while True:
        left = [identity for identity in seen if identity in usage_of_tree(identity[0])]
        if not left or time.monotonic() > end:
            return len(left)
        time.sleep(0.2)


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--iterations", type=int, default=5000, help="iterations of the training (5000)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--record", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args()
    path = record_path(str(results_folder()), args.record) if args.record else None
    setup_logger()
    row = run_soak(args.output, args.iterations)
    name = args.record or "soak"
    record = record_of("soak", sys.argv[1:], args.output, [row], name=name, seed=1)
    print(figures_table(record))
    if path:
        write_json(record, path)
    if not args.keep:
        remove_run(args.output)
    print(row["verdict"])
    return 0 if row["verdict"] == "flat" else 1


if __name__ == "__main__":
    sys.exit(main())
