"""The verdict of the soak tool on trainings with and without a leak."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest

from lambda_det.configs import load_config
from lambda_det.errors import InputError
from studies.endurance import soak
from studies.endurance.process_tree import Usage, shared_memory, usage_of_tree
from studies.endurance.soak import run_soak, watch
from studies.endurance.soak_figures import Sample, Series, figures, memory, slope

TRAINING, WORKER = (7, 70), (8, 80)
linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def samples(kib=0.0, handles=0.0, threads=0.0, worker_kib=0.0) -> list[Sample]:
    """Samples of 2,000 iterations whose memory grows by a given amount in each, with noise."""
    rng = random.Random(0)
    found = []
    for iteration in range(20, 2000, 20):
        for _ in range(5):
            grown = 900_000 + kib * iteration + rng.choice((0, rng.uniform(0, 2e4)))
            training = Usage(
                int(grown), int(40 + handles * iteration), int(7 + threads * iteration)
            )
            worker = Usage(int(400_000 + worker_kib * iteration), 10, 2)
            found.append(Sample(iteration, {TRAINING: training, WORKER: worker}))
    return found


def test_a_flat_training_is_flat() -> None:
    row = figures(samples(), segments_left=0, processes_left=0)
    assert row["verdict"] == "flat" and row["processes"] == 2
    assert row["most_handles_by_quarter"] == "50, 50, 50, 50"
    assert abs(row["rss_slope_kib_per_iteration"]) < 0.5
    assert row["rss_mib"] == pytest.approx(1_300_000 / 1024, abs=3)


@pytest.mark.parametrize("name", ["kib", "worker_kib"])
def test_a_leak_of_memory_is_found_wherever_it_is(name) -> None:
    row = figures(samples(**{name: 2.0}), segments_left=0, processes_left=0)
    assert row["verdict"].startswith("memory may grow by")
    assert row["rss_slope_kib_per_iteration"] == pytest.approx(2, abs=0.5)
    part = "training" if name == "kib" else "workers"
    assert row[f"rss_slope_of_the_{part}_kib_per_iteration"] == pytest.approx(2, abs=0.5)
    assert row["rss_median_of_last_quarter_minus_second_kib"] == pytest.approx(2000, rel=0.3)
    percent = row["projected_growth_over_100000_iterations_percent"]
    assert percent == pytest.approx(100 * 2 * 1e5 / 1_300_000, rel=0.3)


def test_a_handle_a_checkpoint_is_a_leak() -> None:
    row = figures(samples(handles=1 / 50), segments_left=0, processes_left=0)
    assert row["verdict"] == "handles grow from 70 to 89"
    assert (
        figures(samples(handles=1 / 2000), segments_left=0, processes_left=0)["verdict"] == "flat"
    )
    row = figures(samples(threads=1 / 100), segments_left=2, processes_left=1)
    assert row["verdict"] == (
        "threads grow from 19 to 28; 2 shared memory segments are left; 1 processes are left"
    )


def test_the_slope_is_that_of_least_squares() -> None:
    value, error = slope(Series([0, 1, 2, 3], [1.0, 3.0, 2.0, 5.0]))  # by hand
    assert (value, error) == pytest.approx((1.1, 0.5196152))
    with pytest.raises(InputError, match="2 samples in the second half"):
        slope(Series([1, 2], [1.0, 2.0]))


def test_the_least_of_an_iteration_counts() -> None:
    tree = [{TRAINING: Usage(kib, 1, 1), WORKER: Usage(5, 1, 1)} for kib in (9, 3, 4, 8)]
    seen = [Sample(at, one) for at, one in zip((20, 20, 40, 40), tree, strict=True)]
    assert memory(seen) == Series([20, 40], [8, 9])
    assert memory(seen, lambda place: place == 0) == Series([20, 40], [3, 4])


LEAKING = """
import json, os, subprocess, sys, time
waits = [sys.executable, "-c", "input()"]
# What it says of an early end must not stand behind the training's own last line.
child = subprocess.Popen(waits, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
kept = []
with open(sys.argv[1], "a") as metrics:
    for iteration in range(20, 161, 20):
        kept += [b"x" * 2**20 * int(sys.argv[2]), open(os.devnull)]
        metrics.write(json.dumps({"iteration": iteration - 1}) + "\\n{")
        metrics.flush()
        looks = os.path.getsize(sys.argv[3])
        while os.path.getsize(sys.argv[3]) < looks + 3:  # it has been looked at since
            time.sleep(0.001)
        metrics.seek(metrics.tell() - 1)
        metrics.truncate()
child.communicate(b"\\n")
"""


@pytest.fixture
def looks(tmp_path, monkeypatch) -> str:
    """A file that grows by a byte with every look at the processes. What is watched waits for it,
    so that none of its lines is missed on a busy machine."""
    path = tmp_path / "looks"
    path.touch()

    def counted(pid: int) -> dict:
        tree = usage_of_tree(pid)
        with path.open("a") as file:
            file.write(".")
        return tree

    monkeypatch.setattr(soak, "usage_of_tree", counted)
    monkeypatch.setattr(soak, "SAMPLE_S", 0.01)
    return str(path)


@linux
def test_processes_are_watched(tmp_path, looks) -> None:
    metrics = tmp_path / "metrics.json"
    process = subprocess.Popen([sys.executable, "-c", LEAKING, str(metrics), "4", looks])
    seen = watch(process, str(metrics), 160)
    assert process.wait() == 0
    assert {sample.iteration for sample in seen} == set(range(20, 160, 20))
    assert all(len(sample.tree) == 2 for sample in seen)
    assert next(iter(seen[0].tree))[0] == process.pid
    row = figures(seen, segments_left=0, processes_left=0)
    assert row["rss_slope_kib_per_iteration"] == pytest.approx(4 * 1024 / 20, rel=0.3)
    first, *_, last = map(int, row["most_handles_by_quarter"].split(", "))
    assert 4 <= last - first <= 6  # one for every line
    assert row["verdict"].startswith("memory may grow")
    assert usage_of_tree(process.pid) == {}
    assert soak._still_running({identity for one in seen for identity in one.tree}) == 0


@linux
@pytest.mark.parametrize(("status", "grows"), [(1, "4"), (2, "broken")])
def test_the_tool_says_it(tmp_path, monkeypatch, capsys, looks, status, grows) -> None:
    """Replace the training by another process, and check the arguments that it gets."""
    seen = []

    def start(command, log) -> subprocess.Popen:
        seen.extend(command)
        run = tmp_path / "out" / "run"
        run.mkdir()
        with open(log, "w") as file:
            words = [sys.executable, "-c", LEAKING, str(run / "metrics.json"), grows, looks]
            return subprocess.Popen(words, stdout=file, stderr=file)

    monkeypatch.setattr(soak, "start_training", start)
    monkeypatch.setattr(soak, "results_folder", lambda: tmp_path / "results")
    words = ["--output", str(tmp_path / "out"), "--iterations", "160", "--record", "long"]
    monkeypatch.setattr("sys.argv", ["soak.py", *words])
    assert soak.main() == status
    place = seen.index("--config-file")
    cfg = load_config(seen[place + 1], seen[place + 2 :])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (160, 4, 16)
    assert str(tmp_path / "out" / "run") == cfg.OUTPUT_DIR and cfg.DATALOADER.NUM_WORKERS == 1
    shown = capsys.readouterr()
    if status == 1:
        assert "memory may grow by" in shown.out
        assert sorted(os.listdir(tmp_path / "out")) == ["log.txt", "samples.jsonl"]
        record = json.loads((tmp_path / "results" / "long.json").read_text(encoding="utf-8"))
        words[1] = "output/long"
        assert record["command"] == " ".join(["python tools/soak.py", *words])
    else:
        assert "error: the training ended with 1: ValueError: invalid literal" in shown.err


@linux
def test_a_process_that_stays_is_found(monkeypatch) -> None:
    monkeypatch.setattr(soak, "_ENDING_S", 0.1)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (identity,) = usage_of_tree(process.pid)
        assert soak._still_running({identity, (identity[0], identity[1] - 1)}) == 1
        assert shared_memory({process.pid}) == []
    finally:
        process.communicate(b"\n")


def test_what_cannot_be_run_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match="exists already"):
        run_soak(str(tmp_path), 2000)
    with pytest.raises(InputError, match="--iterations 79: at least 80"):
        run_soak(str(tmp_path / "new"), 79)
    assert not (tmp_path / "new").exists()
