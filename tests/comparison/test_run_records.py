"""What is noted of a run: its code, its device, its GPUs; and what others do in the same folder."""

from __future__ import annotations

import errno
import fcntl

import pytest

from lambda_det.comparison import collect, comparison_tables, execute, read_suite
from lambda_det.comparison.collect import comparison_record
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.suite import Run
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow


def test_without_a_checkpoint_nothing_is_resumed(content, write_suite, output, fake_command):
    content |= {"seeds": [1], "resume": True}
    suite = read_suite(write_suite(content), str(output))
    (output / "break").write_text("lambda")
    execute(suite, str(output), command=fake_command)
    (output / "break").unlink()
    states = execute(suite, str(output), command=fake_command)
    rows = collect(suite, states, lambda cfg: {})["runs"]
    assert [row["resumed"] for row in rows] == [False, False]


def test_what_others_have_finished_meanwhile_counts(content, write_suite, output, fake_command):
    """Nodes of a cluster, one run each: the last one's tables have the runs of all."""
    content["seeds"] = [1]
    suite = read_suite(write_suite(content), str(output))
    plain, lambda_ = suite.runs

    def command(run: Run) -> list[str]:
        if run == plain:  # what another node does while this one trains
            execute(suite, str(output), command=fake_command, only=[lambda_])
        return fake_command(run)

    states = execute(suite, str(output), command=command, only=[plain])
    assert states == {plain: FINISHED, lambda_: FINISHED}


def test_a_folder_that_cannot_be_locked_is_a_line(
    content, write_suite, output, fake_command, monkeypatch
):
    suite = read_suite(write_suite(content), str(output))

    def flock(file, how) -> None:
        if how & fcntl.LOCK_NB:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"seed1/lock cannot be locked: No locks available"):
        execute(suite, str(output), command=fake_command)


def test_record_of_a_run_is_of_its_start_and_its_device(
    content, write_suite, output, fake_command, monkeypatch
):
    content["seeds"] = [1]
    content["sets"] = {"slow": {}, "fast": {"overrides": {"MODEL.DEVICE": "cuda"}}}
    del content["models"]["lambda"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    suite = read_suite(write_suite(content), str(output))
    commits = []
    monkeypatch.setattr("lambda_det.records._commit", lambda: f"then {len(commits)}")

    def command(run: Run) -> list[str]:
        commits.append("another, while it trains")
        return fake_command(run)

    states = execute(suite, str(output), command=command)
    record = comparison_record(suite, collect(suite, states, lambda cfg: {}), "python x")
    assert [(o["commit"], o["hardware"]["gpu"]) for o in record["origins"]] == [
        ("then 0", None), ("then 1", "a GPU"),
    ]  # fmt: skip
    text = comparison_tables(record)
    assert "Times and memory are of different hardware" in text


def test_differences_name_no_path_of_this_machine(content, write_suite, output):
    content["models"]["lambda"]["overrides"] = {"MODEL.WEIGHTS": "{output}/x.pth"}
    suite = read_suite(write_suite(content), str(output))
    found = collect(suite, dict.fromkeys(suite.runs, "new"))["differences"]
    assert found["MODEL.WEIGHTS"] == {"plain": "", "lambda": "{output}/x.pth"}
    assert "OUTPUT_DIR" not in found


def test_gpus_are_those_that_trained(content, write_suite, output, fake_command):
    content["seeds"] = [1]
    suite = read_suite(write_suite(content), str(output))
    execute(suite, str(output), command=fake_command)
    suite = read_suite(write_suite(content), str(output), gpus_per_run=8)
    rows = collect(suite, {run: state_of(run) for run in suite.runs}, lambda cfg: {})["rows"]
    assert [row["gpus"] for row in rows] == [1, 1]
