"""Kill a training again and again, resume it, and compare its end with an undisturbed run's."""

from __future__ import annotations

import argparse
import contextlib
import glob
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

from lambda_det.checkpoint.atomic import TEMPORARY
from lambda_det.checkpoint.reading import read_file
from lambda_det.comparison.processes import last_line
from lambda_det.engine.checkpointing import FINAL
from lambda_det.engine.setup import setup_console
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.records import record_path, results_folder, write_json
from studies.endurance.chaos_run import LOSSES_FILE
from studies.endurance.tiny_training import CONFIG, TINY, make_pictures, record_of, start_training
from studies.tables import rows_table

logger = logging.getLogger("lambda_det.chaos")  # what the console shows

PERIOD = 3  # iterations from one checkpoint to the next
SLOW_S = 0.6  # that a write is made to last
DEADLINE_S = 300  # for an event of a training

_TINY = (
    f"{TINY} DATASETS.TEST () SOLVER.CHECKPOINT_PERIOD {PERIOD} SOLVER.CHECKPOINT_KEEP 3"
).split()

KINDS = ("write", "step", "write", "term", "write", "start", "damage", "step", "write", "step")
"""What the kills are, by turns: SIGKILL while a checkpoint is written, at any moment of the
training, or while the process starts; SIGTERM; SIGKILL with the newest checkpoint cut short after
it, as a power cut may leave it."""


@dataclass
class Chaos:
    """What happened, and how far the end is from the undisturbed run's."""

    iterations: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(sorted(set(KINDS)), 0))
    found_half_written: int = 0
    repeated: int = 0
    most_lost: int = 0
    loss_difference: float = 0.0
    weight_difference: float = 0.0
    seconds: float = 0.0

    def row(self) -> dict[str, object]:
        """The row of a record."""
        return {
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
        """Whether every loss and every weight is exactly the undisturbed run's."""
        return self.loss_difference == self.weight_difference == 0.0


def run_chaos(output: str, kills: int, *, iterations: int = 0, seed: int = 0) -> Chaos:
    """Train undisturbed, train with ``kills`` kills, and compare.

    Args:
        output: a folder that is not there yet.
        kills: how many.
        iterations: of the training; 0 = five per kill.
        seed: of the moments of the kills. What is trained does not depend on it.

    Raises:
        InputError: the folder is there, a training failed by itself, or it ended before the last
            kill.
    """
    if os.path.exists(output):
        raise InputError(f"--output {output}: is there already, expected a folder to be made")
    if kills < 1:
        raise InputError(f"--kills {kills}: at least 1 is needed")
    start = time.monotonic()
    result = Chaos(iterations or 5 * kills)
    data = os.path.join(output, "shapes")
    make_pictures(data)
    calm, wild = (_Training(os.path.join(output, n), data, result.iterations)
                  for n in ("undisturbed", "killed"))  # fmt: skip
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
    """A training as a process, begun anew as often as needed."""

    def __init__(self, folder: str, data: str, iterations: int) -> None:
        self.folder = folder
        self._log = f"{folder}.log"
        self._words = [
            *_TINY, "SOLVER.MAX_ITER", str(iterations), "DATASETS.COCO_FOLDER", data,
            "OUTPUT_DIR", folder,
        ]  # fmt: skip

    def finish(self) -> None:
        """Train to the end."""
        process = self._start(slow_s=0.0, workers=0)
        if process.wait():
            raise InputError(f"a training ended with {process.returncode}: {last_line(self._log)}")

    def kill(self, kind: str, rng: random.Random) -> None:
        """Train until a moment of this kind."""
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
        """(iteration, loss) as they were computed, some of them more than once."""
        try:
            with open(os.path.join(self.folder, LOSSES_FILE), encoding="utf-8") as file:
                lines = [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [(line["iteration"], line["loss"]) for line in lines]

    def reached(self) -> int:
        """The number of iterations that were computed at least once."""
        return 1 + max((iteration for iteration, _ in self.losses()), default=-1)

    def half_written(self, since: float = 0.0) -> bool:
        """Whether a checkpoint is being written, or was when the process was killed.

        Args:
            since: seconds of the epoch; what was written to before does not count.
        """
        for path in glob.glob(os.path.join(glob.escape(self.folder), "*.pth" + TEMPORARY)):
            with contextlib.suppress(FileNotFoundError):  # just now it was
                if os.path.getmtime(path) >= since:
                    return True
        return False

    def _start(self, *, slow_s: float, workers: int) -> subprocess.Popen:
        os.makedirs(self.folder, exist_ok=True)
        command = [
            sys.executable, "-W", "ignore", "-m", "studies.endurance.chaos_run",
            "--config-file", CONFIG, "--resume",
            "--slow-write", str(slow_s), *self._words, "DATALOADER.NUM_WORKERS", str(workers),
        ]  # fmt: skip
        return start_training(command, self._log)

    def _wait(self, process: subprocess.Popen, event: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not event() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)

    def _cut_newest(self) -> None:
        names = sorted(n for n in os.listdir(self.folder) if n.startswith("model_0") and
                       n.endswith(".pth"))  # fmt: skip
        if len(names) > 1:  # else nothing would be left
            path = os.path.join(self.folder, names[-1])
            os.truncate(path, os.path.getsize(path) // 2)
            pointer = os.path.join(self.folder, "last_checkpoint")
            with open(pointer, "w", encoding="utf-8") as file:
                file.write(names[-1])


def _compare(result: Chaos, calm: _Training, wild: _Training) -> None:
    expected, seen = dict(calm.losses()), wild.losses()
    if missing := expected.keys() - dict(seen).keys():
        raise InputError(f"{wild.folder}: iteration {min(missing)} was never computed")
    # Every time that an iteration was computed, and not only the last one.
    result.loss_difference = _largest(abs(loss - expected[i]) for i, loss in seen)
    result.repeated = len(seen) - len(expected)
    steps = itertools.pairwise(seen)
    result.most_lost = max([0, *(before + 1 - now for (before, _), (now, _) in steps)])
    one, other = (_tensors(read_file(os.path.join(t.folder, FINAL)).data) for t in (calm, wild))
    if one.keys() != other.keys():
        raise InputError(f"{wild.folder}: another network than {calm.folder}'s")
    result.weight_difference = _largest(
        (tensor.double() - other[name].double()).abs().max().item()
        for name, tensor in one.items()
        if tensor.numel()
    )


def _largest(differences: Iterable[float]) -> float:
    """Python's ``max`` would pass over a NaN."""
    return torch.tensor(list(differences), dtype=torch.float64).max().item()


def _tensors(checkpoint: dict) -> dict[str, torch.Tensor]:
    """Weights, running statistics and the optimiser's momenta of a checkpoint."""
    states = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    momenta = {
        f"optimizer {number} {name}": value
        for number, state in states.items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {**checkpoint["model"], **momenta}


def remove_checkpoints(output: str) -> None:
    """Remove what the trainings have left, some hundreds of megabytes, but for the logs."""
    for name in ("undisturbed", "killed", "shapes"):
        shutil.rmtree(os.path.join(output, name), ignore_errors=True)


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="is made")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=0, help="default: five per kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--record", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args()
    path = record_path(str(results_folder()), args.record) if args.record else None
    setup_console()
    result = run_chaos(args.output, args.kills, iterations=args.iterations, seed=args.seed)
    name, row = args.record or "chaos", result.row()
    record = record_of("chaos", sys.argv[1:], args.output, row, name=name, seed=args.seed)
    print(rows_table(record))
    if path:
        write_json(record, path)
    if not args.keep:
        remove_checkpoints(args.output)
    print("the same" if result.same else "NOT the same as the undisturbed run")
    return 0 if result.same else 1


if __name__ == "__main__":
    sys.exit(main())
