"""Kill and resume a training many times, and compare its result with that of an undisturbed run."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from detectron2.utils.logger import setup_logger

from lambda_det.checkpoint.reading import read_file
from lambda_det.comparison.processes import last_line
from lambda_det.engine.checkpointing import FINAL
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import leftovers, write_json
from lambda_det.records import record_path, results_folder
from studies.endurance.chaos_run import LOSSES_FILE
from studies.endurance.tiny_training import (
    PER_EPOCH,
    PERIOD,
    TRAININGS,
    make_dataset,
    make_image_folder,
    record_of,
    start_training,
)
from studies.tables import rows_table

logger = logging.getLogger("lambda_det.chaos")

SLOW_S = 0.6  # seconds that the writing of a checkpoint is slowed down to
DEADLINE_S = 300  # seconds to wait for an event of the training

KINDS = ("write", "step", "write", "term", "write", "start", "damage", "step", "write", "step")
"""The kinds of kills, in turn.

``write`` is SIGKILL while a checkpoint is written, ``step`` SIGKILL at a random moment of the
training, ``start`` SIGKILL while the process starts, and ``term`` SIGTERM. After ``damage``, a
SIGKILL, the newest checkpoint is truncated, as a power failure may leave it.
"""


@dataclass
class Chaos:
    """The kills of a run, and the differences between its result and the undisturbed run's."""

    iterations: int
    training: str = "detection"
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(sorted(set(KINDS)), 0))
    found_half_written: int = 0
    repeated: int = 0
    most_lost: int = 0
    loss_difference: float = 0.0
    weight_difference: float = 0.0
    seconds: float = 0.0

    def row(self) -> dict[str, object]:
        """Make the row of a record."""
        return {
            "training": self.training,
            "kills": sum(self.kills.values()),
            "kills_during_a_write": self.kills["write"],
            "kills_at_any_moment": self.kills["step"],
            "kills_at_start": self.kills["start"],
            "sigterms": self.kills["term"],
            "kills_with_the_newest_checkpoint_cut": self.kills["damage"],
            "half_written_files_left": self.found_half_written,
            "iterations": self.iterations,
            "iterations_computed_again": self.repeated,
            "most_iterations_lost_by_a_kill": self.most_lost,
            "checkpoint_period_iterations": PERIOD,
            "largest_loss_difference": self.loss_difference,
            "largest_difference_of_weights_and_optimizer": self.weight_difference,
            "wall_s": round(self.seconds, 1),
        }

    @property
    def same(self) -> bool:
        """Whether every loss and every weight is exactly that of the undisturbed run."""
        return self.loss_difference == self.weight_difference == 0.0


def run_chaos(
    output: str, kills: int, *, training: str = "detection", iterations: int = 0, seed: int = 0
) -> Chaos:
    """Train once undisturbed and once with ``kills`` kills, and compare the results.

    Args:
        output: folder for both runs; it must not exist.
        kills: number of kills.
        training: a key of :data:`TRAININGS`.
        iterations: iterations of the training; 0 takes five for each kill.
        seed: seed of the moments of the kills; the training does not depend on it.

    Raises:
        InputError: the folder exists, a training failed by itself, or it ended before the last
            kill.
    """
    if os.path.exists(output):
        raise InputError(f"--output {output}: exists already; name a new folder")
    if kills < 1:
        raise InputError(f"--kills {kills}: at least 1 is needed")
    start = time.monotonic()
    iterations = iterations or 5 * kills
    iterations = -(-iterations // PER_EPOCH) * PER_EPOCH
    result = Chaos(iterations, training)
    data = os.path.join(output, "shapes")
    make_dataset(data)
    if training == "pretrain":
        make_image_folder(f"{data}_folder")
    calm, wild = (
        _Training(os.path.join(output, name), data, iterations, training)
        for name in ("undisturbed", "killed")
    )
    calm.finish()
    logger.info("undisturbed: %d iterations", result.iterations)
    rng = random.Random(seed)
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        begun = time.time()
        wild.kill(kind, rng)
        result.kills[kind] += 1
        result.found_half_written += wild.half_written(since=begun)
        logger.info("kill %d of %d (%s): at iteration %d", number + 1, kills, kind, wild.reached())
    wild.finish()
    result.seconds = time.monotonic() - start
    _compare(result, calm, wild)
    return result


class _Training:
    """A training in a process that can be killed and started again."""

    def __init__(self, folder: str, data: str, iterations: int, kind: str = "detection") -> None:
        self.folder = folder
        self._log = f"{folder}.log"
        self._data, self._iterations, self._kind = data, iterations, kind

    def finish(self) -> None:
        """Start or resume the training, and wait until it has ended."""
        process = self._start(slow_s=0.0, workers=0)
        if process.wait():
            raise InputError(f"a training ended with {process.returncode}: {last_line(self._log)}")

    def kill(self, kind: str, rng: random.Random) -> None:
        """Start or resume the training, and kill it at a moment of this kind."""
        begun, lines = time.monotonic(), len(self.losses())
        process = self._start(slow_s=SLOW_S, workers=rng.choice((0, 2)))
        try:
            if kind == "start":
                time.sleep(rng.uniform(0, 5))
            elif kind == "write":
                for _ in range(rng.choice((1, 2))):
                    self._wait(process, lambda: not self.half_written())
                    self._wait(process, self.half_written)
                time.sleep(rng.uniform(0, 0.8 * SLOW_S))
            else:
                self._wait(process, lambda: len(self.losses()) > lines)
                time.sleep(rng.uniform(0, 3))
        finally:
            ended = process.poll()
            process.send_signal(signal.SIGTERM if kind == "term" else signal.SIGKILL)
            process.wait()
        expected = 0 if kind == "term" else -signal.SIGKILL
        if ended is not None or process.returncode != expected:
            raise InputError(
                f"the training ended by itself with {process.returncode} after "
                f"{time.monotonic() - begun:.0f} s, before its kill: more --iterations are needed, "
                f"or see {self._log} ({last_line(self._log)})"
            )
        if kind == "damage":
            self._cut_newest()

    def losses(self) -> list[tuple[int, float]]:
        """(iteration, loss) in the order of their computation; resumed runs repeat iterations."""
        try:
            with open(os.path.join(self.folder, LOSSES_FILE), encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [(line["iteration"], line["loss"]) for line in lines]

    def reached(self) -> int:
        """Number of iterations that were computed at least once."""
        return 1 + max((iteration for iteration, _ in self.losses()), default=-1)

    def half_written(self, since: float = 0.0) -> bool:
        """Whether a checkpoint is being written, or was when the process was killed.

        Args:
            since: time in seconds since the epoch; files that are older do not count.
        """
        for name in leftovers(self.folder) if os.path.isdir(self.folder) else ():
            with contextlib.suppress(FileNotFoundError):  # it was renamed in the meantime
                if os.path.getmtime(os.path.join(self.folder, name)) >= since:
                    return True
        return False

    def _start(self, *, slow_s: float, workers: int) -> subprocess.Popen:
        os.makedirs(self.folder, exist_ok=True)
        command = [
            sys.executable, "-W", "ignore", "-m", "studies.endurance.chaos_run",
            "--resume", "--training", self._kind, "--slow-write", str(slow_s),
            *TRAININGS[self._kind](self.folder, self._data, self._iterations, workers),
        ]  # fmt: skip
        return start_training(command, self._log)

    def _wait(self, process: subprocess.Popen, event: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not event() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)

    def _cut_newest(self) -> None:
        names = sorted(n for n in os.listdir(self.folder) if n.startswith("model_0") and
                       n.endswith(".pth"))  # fmt: skip
        if len(names) > 1:  # else the training would start from the beginning
            path = os.path.join(self.folder, names[-1])
            os.truncate(path, os.path.getsize(path) // 2)
            pointer = os.path.join(self.folder, "last_checkpoint")
            with open(pointer, "w", encoding="utf-8") as file:
                file.write(names[-1])


def _compare(result: Chaos, calm: _Training, wild: _Training) -> None:
    expected, seen = dict(calm.losses()), wild.losses()
    if missing := expected.keys() - dict(seen).keys():
        raise InputError(f"{wild.folder}: iteration {min(missing)} was never computed")
    # All computations of an iteration are compared, not only the last one.
    result.loss_difference = _largest(abs(loss - expected[i]) for i, loss in seen)
    result.repeated = len(seen) - len(expected)
    steps = itertools.pairwise(seen)
    result.most_lost = max([0, *(before + 1 - now for (before, _), (now, _) in steps)])
    one, other = (_tensors(read_file(os.path.join(t.folder, FINAL))) for t in (calm, wild))
    if one.keys() != other.keys():
        raise InputError(f"{wild.folder}: its weights have other names than those in {calm.folder}")
    result.weight_difference = _largest(
        (tensor.double() - other[name].double()).abs().max().item()
        for name, tensor in one.items()
        if tensor.numel()
    )


def _largest(differences: Iterable[float]) -> float:
    """The maximum, or NaN if there is one, which Python's ``max`` may ignore."""
    return torch.tensor(list(differences), dtype=torch.float64).max().item()


def _tensors(checkpoint: dict) -> dict[str, torch.Tensor]:
    """The weights, running statistics and momenta of the optimizer in a checkpoint."""
    states = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    momenta = {
        f"optimizer {number} {name}": value
        for number, state in states.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {**checkpoint["model"], **momenta}


def remove_checkpoints(output: str) -> None:
    """Remove the files of the trainings, some hundreds of megabytes; the logs stay."""
    for name in ("undisturbed", "killed", "shapes", "shapes_folder"):
        shutil.rmtree(os.path.join(output, name), ignore_errors=True)


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--training", nargs="+", choices=TRAININGS, default=[*TRAININGS], help="kinds (all)"
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (20)")
    parser.add_argument("--iterations", type=int, default=0, help="(five for each kill)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills (0)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--record", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args()
    path = record_path(str(results_folder()), args.record) if args.record else None
    setup_logger()
    results = [
        run_chaos(
            os.path.join(args.output, kind),
            args.kills,
            training=kind,
            iterations=args.iterations,
            seed=args.seed,
        )
        for kind in args.training
    ]
    name, rows = args.record or "chaos", [result.row() for result in results]
    record = record_of("chaos", sys.argv[1:], args.output, rows, name=name, seed=args.seed)
    print(rows_table(record))
    if path:
        write_json(record, path)
    if not args.keep:
        for kind in args.training:
            remove_checkpoints(os.path.join(args.output, kind))
    for result in results:
        same = "" if result.same else "NOT "
        print(f"{result.training}: the result is {same}the same as that of the undisturbed run")
    return 0 if all(result.same for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
