"""Jobs of SLURM: what is queued, and what a task does with the signals that it gets."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from lambda_det.commands import train_net, train_slurm
from lambda_det.engine.interruption import TrainingInterrupted
from lambda_det.errors import InputError
from lambda_det.slurm import TrainingJob, minutes_of, submit

submitit = pytest.importorskip("submitit")
QUICK = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
TRAIN_NET = """
import json, os, time
from lambda_det.engine.interruption import Interruption, TrainingInterrupted

def main(argv):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    facts = {"argv": argv, "pid": os.getpid(), **{n: os.environ[n] for n in names}}
    if "--resume" in argv:
        write(facts)
        return 3
    interruption = Interruption()
    with interruption.installed():
        write(facts)
        while interruption.signum is None:
            time.sleep(0.02)
    raise TrainingInterrupted(interruption.signum)

def write(facts):
    with open(os.path.join(os.path.dirname(__file__), "starts"), "a") as file:
        file.write(json.dumps(facts) + "\\n")
"""


def on_this_machine(job: TrainingJob, folder: Path, cluster: str):
    return submit(
        job, str(folder), cluster=cluster, nodes=1, processes=1, gpus=0, minutes=60, name="x",
        requeues=2, partition=None,
    )  # fmt: skip


@pytest.mark.slow
def test_a_preempted_job_saves_and_goes_on(tmp_path, monkeypatch) -> None:
    """A real task, started by submitit on this machine and told to make room."""
    (tmp_path / "waiting_train_net.py").write_text(TRAIN_NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    main = importlib.import_module("waiting_train_net").main
    job = on_this_machine(TrainingJob(main, ["A", "1"]), tmp_path / "job", "local")
    starts, end = tmp_path / "starts", time.monotonic() + 600
    while not (starts.exists() and starts.read_text().endswith("\n")):
        assert time.monotonic() < end, job.stderr()
        time.sleep(0.05)
    os.kill(json.loads(starts.read_text())["pid"], signal.SIGUSR2)
    assert job.results() == [3]  # the status of the second start
    first, second = map(json.loads, starts.read_text().splitlines())
    assert first["argv"] == ["A", "1"] and second["argv"] == ["--resume", "A", "1"]
    assert (first["WORLD_SIZE"], first["LOCAL_WORLD_SIZE"], first["RANK"]) == ("1", "1", "0")
    assert first["MASTER_ADDR"] == "127.0.0.1" and int(first["MASTER_PORT"]) > 1023


def test_started_anew_by_the_scheduler_it_goes_on(tmp_path, monkeypatch) -> None:
    trained: list[list[str]] = []
    train = lambda argv: trained.append(argv) or 2  # noqa: E731
    job = TrainingJob(train, ["--config-file", "c.yaml"])
    assert on_this_machine(job, tmp_path / "job", "debug").results() == [2]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert on_this_machine(job, tmp_path / "job", "debug").results() == [2]
    assert trained == [["--config-file", "c.yaml"], ["--resume", "--config-file", "c.yaml"]]
    again = job.checkpoint().function.checkpoint().function
    assert again._arguments == ["--resume", "--config-file", "c.yaml"]


def test_a_task_of_slurm_ends_with_the_status() -> None:
    environment = {
        "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }  # fmt: skip
    saved = dict(os.environ)
    try:
        os.environ.update(environment)
        with pytest.raises(SystemExit) as stop:
            TrainingJob(lambda argv: 2, [])()
        assert stop.value.code == 2

        # A signal to the process alone, as of scancel: saved, and not queued again.
        def stopped(argv: list[str]) -> None:
            raise TrainingInterrupted(signal.SIGTERM)

        assert TrainingJob(stopped, [])() == 0
    finally:
        os.environ.clear()
        os.environ.update(saved)


@pytest.mark.slow
def test_what_is_queued(project, tmp_path, monkeypatch, capsys) -> None:
    """sbatch and srun are stand-ins; the file that sbatch gets is submitit's own."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        path = programs / name
        path.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/queued\necho Submitted batch job 17\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(project)
    status = train_slurm.main(
        ["--nodes", "2", "--gpus-per-node", "8", "--partition", "gpu", "--time", "1-02:00",
         "--cpus-per-gpu", "6", "--config-file", QUICK, "OUTPUT_DIR", str(tmp_path / "lambda"),
         "MODEL.DEVICE", "cuda"]
    )  # fmt: skip
    assert status == 0 and "job 17: its output is in" in capsys.readouterr().out
    text = (tmp_path / "queued").read_text()
    for option in (
        "nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "partition=gpu", "time=1560",
        "cpus-per-task=6", "signal=USR2@120", "job-name=lambda",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text, option
    (path,) = (tmp_path / "lambda" / "slurm").glob("*submitted.pkl")
    queued = submitit.core.utils.DelayedSubmission.load(path).function
    assert queued._arguments[:2] == ["--config-file", QUICK] and queued._train_net is train_net.main


WRONG = {
    "processes": (["--num-gpus", "2"], r"--num-gpus is an argument of train_net only"),
    "nodes": (["--nodes", "0"], "--nodes 0: expected 1 or more"),
    "time": (["--time", "long"], "--time 'long': expected HOURS"),
    "config": (["--config-file", "none.yaml"], "--config-file none.yaml: no such file"),
    "value": (["SOLVER.EMA_DECAY", "2.0"], r"SOLVER\.EMA_DECAY=2\.0: expected"),
    "no cluster": ([], "--cluster slurm: .*srun"),
    "several": (["--cluster", "local", "--nodes", "2"], "--cluster local: .*one node"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(tmp_path, monkeypatch, capsys, name) -> None:
    words, line = WRONG[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert train_slurm.main(words) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {line}", error), error


def test_without_submitit(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert train_slurm.main([]) == 2
    assert "pip install 'lambda_det[slurm]'" in capsys.readouterr().err


def test_times() -> None:
    times = {"90": 90, "24:00:00": 1440, "30:00": 30, "0:30": 1, "2-01:15": 2955, "1:00:01": 61,
             "1-2": 1560, "1-00:00:30": 1441}  # fmt: skip
    assert {text: minutes_of(text) for text in times} == times
    for text in ("", "0", "1h", "1:2", "00:00:00", "-5"):
        with pytest.raises(InputError, match="--time"):
            minutes_of(text)
