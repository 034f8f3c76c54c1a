"""Runs: once each, resumed, survived, never two at a time; and what is made of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from suite_helpers import fake_training

from lambda_det.comparison import (
    collect,
    comparison_tables,
    execute,
    results_markdown,
)
from lambda_det.comparison.run_files import FAILED, FINISHED, NEW, STARTED, state_of
from lambda_det.comparison.suite import Run, Suite, chosen_runs
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow


def started(output: Path) -> list[str]:
    return sorted((output / "started.txt").read_text().splitlines())


def test_finished_runs_are_not_repeated_and_failed_ones_are_taken_up(read, train, content, output):
    content["seeds"] = [1, 2]
    suite = read()
    assert {state_of(run) for run in suite.runs} == {NEW}
    (output / "break").write_text("plain")
    states = train(suite, jobs=2)
    assert started(output) == ["lambda 1", "lambda 2", "plain 1", "plain 2"]
    for run, state in states.items():
        assert state == state_of(run) == (FAILED if run.model == "plain" else FINISHED)
    record = collect(suite, states, lambda cfg: {})
    failed = [row for row in record["runs"] if row["state"] == FAILED]
    assert len(failed) == 2 and failed[0]["reason"] == "error: no such thing"
    assert not any("gain" in key for row in record["rows"] for key in row)
    text = results_markdown(record)
    assert "- plain seed 1, failed: error: no such thing" in text

    (output / "break").unlink()
    states = train(suite)
    assert started(output) == ["lambda 1", "lambda 2", *["plain 1"] * 2, *["plain 2"] * 2]
    assert set(states.values()) == {FINISHED}
    train(suite)
    assert len(started(output)) == 6


def test_rows(read, train):
    suite = read()
    states = train(suite, jobs=2)
    record = collect(suite, states, lambda cfg: {"parameters_millions": 1.25})
    plain, lambda_ = record["rows"]
    assert plain["box_ap"] == {"mean": 32, "sd": 1, "values": [31, 32, 33]}
    assert "box_ap_gain" not in plain and "box_apl" not in plain and "mask_ap" not in plain
    assert lambda_["box_ap"]["mean"] == pytest.approx(106 / 3, abs=1e-3)
    gain = lambda_["box_ap_gain"]
    assert gain["mean"] == pytest.approx(10 / 3, abs=1e-3) and gain["values"] == [3, 4, 3]
    half = 4.3027 * (1 / 3) ** 0.5 / 3**0.5
    assert (gain["low"], gain["high"]) == pytest.approx((10 / 3 - half, 10 / 3 + half), abs=1e-3)
    assert plain["train_ms_per_image"]["mean"] == pytest.approx(100)
    assert plain["inference_ms_per_image"]["mean"] == pytest.approx(20)
    assert plain["peak_host_memory_mib"]["mean"] == 502 and "pretrained_percent" not in plain
    assert record["differences"]["MODEL.LAMBDA_RESNET.VARIANT"] == {
        "plain": "resnet", "lambda": "lambda",
    }  # fmt: skip
    assert record["schema"] == 1 and record["seeds"] == [1, 2, 3]
    text = results_markdown(record)
    assert "Box AP: λ-50 lies above R-50 with the whole interval of its gain." in text
    assert "| λ-50 | 3/3 | 35.3 ± 1.2 | +3.3 [+1.9, +4.8] | 10.0 / 10.0 / – |" in text
    assert "| R-50 | 1.2 | 100.0 ± 25.0 | 20.0 ± 10.0 |" in text
    assert (
        "20 iterations of 8 images (short side 160, at most 160), learning rate 0.05" in text
        and "2 runs at a time" in text
    )
    assert "mask" not in text.partition("What the models")[0] and "Not finished" not in text
    assert "| `MODEL.LAMBDA_RESNET.VARIANT` | `'resnet'` | `'lambda'` |" in text
    assert comparison_tables(json.loads(json.dumps(record))) == comparison_tables(record)


def test_sets_have_tables_and_gains_of_their_own(read, train, content, output):
    content["seeds"] = [1, 2]
    content["sets"] = {"hard": {"label": "relational"}, "easy": {}}
    suite = read()
    states = train(suite, jobs=4)
    assert set(states.values()) == {FINISHED} and len(states) == 8
    assert (output / "runs/easy/plain/seed2/finished.json").is_file()
    record = collect(suite, states, lambda cfg: {}, command="python x")
    rows = {(row["set"], row["model"]): row for row in record["rows"]}
    assert rows["hard", "plain"]["box_ap"]["mean"] == 31.5
    assert rows["easy", "plain"]["box_ap"]["mean"] == 41.5
    for name in ("hard", "easy"):
        assert rows[name, "lambda"]["box_ap_gain"]["values"] == [3, 4]
    text = comparison_tables(record)
    hard, easy = text.partition("**relational**")[2].split("**easy**")
    assert "| R-50 | 2/2 | 31.5 ± 0.7 |" in hard and "| R-50 | 2/2 | 41.5 ± 0.7 |" in easy
    assert "\n20 iterations of 8 images" in text
    assert "Box AP: λ-50 is not told apart from R-50 (the interval holds 0)." in text
    record["rows"][0]["iterations"] = 30
    assert "relational: 30 iterations" in comparison_tables(record)


def test_published_numbers_have_columns_of_their_own(read, train, content):
    content["models"]["plain"]["published"] = "ResNet-101"
    content["models"]["lambda"]["published"] = "LambdaResNet-101"
    content["seeds"] = [1]
    suite = read()
    states = train(suite)
    record = collect(suite, states, lambda cfg: {}, command="python x")
    text = results_markdown(record)
    assert "| box AP, published | s / m / l, published |" in text
    assert (
        "| λ-50 | 1/1 | 34.0 | +3.0 | 10.0 / 10.0 / – | 49.4 (+1.2) | 31.7 / 52.2 / 65.6 |" in text
    )
    assert "Table 6" in text and "the spread is unknown" in text
    content["models"]["plain"]["published"] = "ResNet-50"
    with pytest.raises(InputError, match=r"models.plain.published 'ResNet-50': expected"):
        collect(read(), states)


def test_a_moved_comparison_is_known_where_it_is_and_another_one_is_not(
    read, train, content, output
):
    content["seeds"] = [1]
    train(read())
    moved = output.rename(output.parent / "elsewhere")
    assert {state_of(run) for run in read(folder=moved).runs} == {FINISHED}
    content["overrides"]["SOLVER.MAX_ITER"] = 30
    line = r"seed1 contains a run with SOLVER.MAX_ITER 20, the suite says 30; .*--output"
    with pytest.raises(InputError, match=line):
        train(read(folder=moved), moved)


def test_run_without_metrics_has_failed(read, train, content):
    content["seeds"] = [1]
    suite = read()
    assert set(train(suite, command=lambda run: ["true"]).values()) == {FAILED}
    with pytest.raises(InputError, match="--jobs 0"):
        train(suite, jobs=0)


def test_a_run_that_a_signal_ended_is_not_finished(read, train, content, output):
    """It ended with status 0, and its folder holds the metrics of an evaluation on the way."""
    content["seeds"] = [1]
    suite = read()
    (output / "stop").write_text("plain")
    assert list(train(suite).values()) == [FAILED, FINISHED]
    failed = json.loads((output / "runs/plain/seed1/failed.json").read_text())
    assert failed["exit_status"] == 0
    assert failed["reason"] == "stopped by SIGTERM after iteration 12 of 20"
    (output / "stop").unlink()
    assert set(train(suite).values()) == {FINISHED}
    assert started(output) == ["lambda 1", "plain 1", "plain 1"]


def test_what_is_kept_of_a_run_names_no_folder_of_this_machine(read, train, content, output):
    content["seeds"] = [1]
    assert set(train(read()).values()) == {FINISHED}
    facts = json.loads((output / "runs/plain/seed1/finished.json").read_text())
    assert str(output) not in json.dumps(facts["record"])
    assert "OUTPUT_DIR {output}/runs/plain/seed1" in facts["record"]["command"]


def test_each_job_has_a_device_of_its_own(read, train, monkeypatch):
    code = "import os, sys; sys.exit(os.environ['CUDA_VISIBLE_DEVICES'])"
    suite = read()
    monkeypatch.setattr("lambda_det.comparison.running.job_devices", lambda *_: ["4", "7"])
    train(suite, command=lambda run: [sys.executable, "-c", code], jobs=2)
    said = [json.loads(Path(r.folder, "failed.json").read_text())["reason"] for r in suite.runs]
    assert set(said) <= {"4", "7"} and "7" in said


def drive(suite: Suite, output: str) -> None:
    """A process of its own that compares, as the command compare ends on a signal."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    execute(suite, output, jobs=2)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_killed_half_way_continues(read, train, content, output, name):
    content["seeds"] = [1]
    suite = read()
    (output / "wait").write_text("lambda")
    # A fork: a new interpreter takes seconds to import what is imported here.
    driver = multiprocessing.get_context("fork").Process(target=drive, args=(suite, str(output)))
    driver.start()
    lambda_, plain = output / "runs/lambda/seed1", output / "runs/plain/seed1"
    wait_for(lambda: (lambda_ / "last_checkpoint").is_file())
    wait_for(lambda: (plain / "finished.json").is_file())
    os.kill(driver.pid, getattr(signal, name))
    driver.join(600)
    assert driver.exitcode == {"SIGKILL": -9, "SIGTERM": 143}[name]
    states = {run.model: state_of(run) for run in suite.runs}
    assert states == {"plain": FINISHED, "lambda": STARTED}
    (output / "wait").unlink()
    # What the driver had started has ended with it; it holds the lock for as long as it takes.
    wait_for(lambda: set(train(suite).values()) == {FINISHED})
    assert started(output) == ["lambda 1", "lambda 1", "plain 1"]
    assert json.loads((lambda_ / "finished.json").read_text())["attempts"] == 2


def test_two_comparisons_at_once_share_the_runs(read, train, content, output):
    content["seeds"] = [1]
    suite = read()
    (output / "wait").write_text("lambda")
    results = []
    first = threading.Thread(target=lambda: results.append(train(suite, jobs=2)))
    first.start()
    wait_for(lambda: (output / "runs/lambda/seed1/last_checkpoint").is_file())
    wait_for(lambda: (output / "runs/plain/seed1/finished.json").is_file())
    states = train(suite)
    assert {run.model: state for run, state in states.items()} == {
        "plain": FINISHED, "lambda": STARTED,
    }  # fmt: skip
    (output / "wait").unlink()
    first.join()
    assert set(results[0].values()) == {FINISHED}
    assert started(output) == ["lambda 1", "plain 1"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_begun_run_starts_again_unless_it_is_to_be_resumed(read, train, content, output, resume):
    content |= {"seeds": [1], "resume": resume}
    suite = read()
    (output / "break").write_text("lambda")
    train(suite)
    folder = output / "runs/lambda/seed1"
    (folder / "last_checkpoint").write_text("x")
    (output / "break").write_text("")
    seen = output / "seen.txt"

    def command(run: Run) -> list[str]:
        seen.write_text(str(Path(run.folder, "last_checkpoint").exists()))
        return fake_training(run)

    states = train(suite, command=command)
    assert set(states.values()) == {FINISHED} and seen.read_text() == str(resume)
    assert not (folder / "failed.json").exists()
    rows = collect(suite, states, lambda cfg: {})["runs"]
    assert {row["model"]: row["resumed"] for row in rows} == {"plain": False, "lambda": resume}


def test_only_the_chosen_runs(read, train, content):
    content["sets"] = {"hard": {}, "easy": {}}
    suite = read()
    chosen = chosen_runs(suite, ["hard/lambda/seed2", "easy/plain"])
    assert [run.key for run in chosen] == [
        "easy/plain/seed1", "hard/lambda/seed2", "easy/plain/seed2", "easy/plain/seed3",
    ]  # fmt: skip
    states = train(suite, only=chosen[:2])
    assert [run for run, state in states.items() if state == FINISHED] == chosen[:2]
    assert len(states) == 12 and chosen_runs(suite, []) == list(suite.runs)
    for wrong in ("har", "lambda", "hard/lambda/seed"):
        with pytest.raises(InputError, match=f"--only '{wrong}': expected one of hard/plain/seed1"):
            chosen_runs(suite, [wrong])
