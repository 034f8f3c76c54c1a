"""Files of a run and of a comparison that are broken, another's, or cannot be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from lambda_det.comparison import collect
from lambda_det.comparison.planning import measure
from lambda_det.comparison.report import write_results
from lambda_det.comparison.run_files import FINISHED, NEW, STARTED, state_of
from lambda_det.comparison.suite import Run, Suite
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def content(content: dict) -> dict:
    return content | {"seeds": [1]}


@pytest.fixture
def finished(read, train) -> Suite:
    """A suite of two finished runs."""
    suite = read()
    assert set(train(suite).values()) == {FINISHED}
    return suite


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "is not valid JSON"),
        (lambda text: text.replace('"gpus"', '"cpus"'), "is broken"),
    ],
)
def test_a_run_with_a_broken_verdict_counts_as_unfinished(finished, caplog, change, reason):
    path = Path(finished.runs[0].folder, "finished.json")
    path.write_text(change(path.read_text()))
    states = {run: state_of(run) for run in finished.runs}
    assert list(states.values()) == [STARTED, FINISHED]
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{path} {reason}" in line and line.endswith("the run counts as unfinished")
    assert [row["finished"] for row in collect(finished, states, lambda cfg: {})["rows"]] == [0, 1]


def test_a_verdict_that_may_not_be_read_is_no_broken_one(finished):
    path = Path(finished.runs[0].folder, "finished.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"finished.json cannot be read: Is a directory"):
        state_of(finished.runs[0])


def test_what_lies_beside_a_broken_verdict_is_not_lost(finished, train):
    folder = Path(finished.runs[0].folder)
    (folder / "finished.json").write_text("{")
    (folder / "model_final.pth").write_text("weights")
    assert set(train(finished).values()) == {FINISHED}
    aside = folder / "set_aside_1"
    assert (aside / "finished.json").read_text() == "{"
    assert (aside / "model_final.pth").read_text() == "weights"
    assert (aside / "inference" / "metrics.json").is_file()
    (folder / "run.json").unlink()  # a verdict without a description is set aside as well
    assert state_of(finished.runs[0]) == NEW
    train(finished)
    assert aside.is_dir() and (folder / "set_aside_2" / "finished.json").is_file()


def test_a_resumed_run_keeps_its_checkpoint_beside_a_broken_verdict(read, train, content):
    content["resume"] = True
    suite = read()
    train(suite)
    folder = Path(suite.runs[0].folder)
    (folder / "finished.json").write_text("{")
    seen = []

    def command(run: Run) -> list[str]:
        seen.append(sorted(os.listdir(run.folder)))
        return ["true"]

    assert train(suite, command=command)[suite.runs[0]] == FINISHED
    assert "last_checkpoint" in seen[0] and "finished.json" not in seen[0]
    assert os.listdir(folder / "set_aside_1") == ["finished.json"]


@pytest.mark.parametrize("key", ["SOLVER.MAX_SKIPPED_STEPS", "SOLVER.MOMENTUM"])
def test_a_key_that_a_run_did_not_know_was_at_its_default(finished, read, content, key):
    for run in finished.runs:
        path = Path(run.folder, "run.json")
        known = json.loads(path.read_text())
        known["settings"].pop(key)
        path.write_text(json.dumps(known))
        assert state_of(run) == FINISHED
    default = finished.runs[0].settings[key]
    content["overrides"][key] = default + 1
    line = rf"contains a run with {key} {default}, the suite says {default + 1}; choose another"
    with pytest.raises(InputError, match=line):
        state_of(read().runs[0])


def test_a_key_that_nobody_knows_any_more(finished):
    run = finished.runs[0]
    path = Path(run.folder, "run.json")
    known = json.loads(path.read_text())
    assert "SOLVER.MAX_ITER" in known["changed"] and "SOLVER.GAMMA" not in known["changed"]
    known["settings"]["MODEL.GONE"] = 3
    path.write_text(json.dumps(known))
    assert state_of(run) == FINISHED  # it was what it is by default
    path.write_text(json.dumps(known | {"changed": ["MODEL.GONE"]}))
    with pytest.raises(InputError, match=r"contains a run with MODEL.GONE 3, which this version"):
        state_of(run)


def test_a_broken_description_is_a_line(finished, train):
    Path(finished.runs[0].folder, "run.json").write_text("{")
    with pytest.raises(InputError, match=r"plain/seed1/run.json is not valid JSON"):
        train(finished)
    assert Path(finished.runs[0].folder, "finished.json").is_file()


def fail_on(monkeypatch, name: str, meanwhile=lambda: None) -> None:
    """Every file whose path ends so cannot be written: its disk is full."""
    real = os.replace

    def replace(source, target) -> None:
        if os.fspath(target).endswith(name):
            meanwhile()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr("os.replace", replace)


@pytest.mark.parametrize("name", ["run.json", "finished.json", "failed.json"])
def test_a_full_disk_is_a_line_and_no_further_run_begins(read, train, output, monkeypatch, name):
    suite = read()
    (output / "break").write_text("plain lambda" if name == "failed.json" else "")
    fail_on(monkeypatch, name)
    with pytest.raises(InputError, match=rf"seed1/{name}: cannot be written \(No space left"):
        train(suite)
    started = output / "started.txt"
    assert not started.exists() if name == "run.json" else started.read_text() == "plain 1\n"
    assert not list(output.rglob("*.tmp"))


def test_what_trains_ends_before_the_full_disk_is_told(read, train, output, monkeypatch):
    suite = read()
    (output / "wait").write_text("lambda")
    fail_on(monkeypatch, "plain/seed1/finished.json", (output / "wait").unlink)
    with pytest.raises(InputError, match=r"plain/seed1/finished.json: cannot be written"):
        train(suite, jobs=2)
    assert [state_of(run) for run in suite.runs] == [STARTED, FINISHED]


@pytest.mark.parametrize("name", ["results.json", "report.html"])
def test_results_that_cannot_be_written_are_a_line(read, output, monkeypatch, name):
    suite = read()
    states = dict.fromkeys(suite.runs, NEW)
    record = collect(suite, states, command="python x")
    (output / name).write_text("before")
    fail_on(monkeypatch, name)
    with pytest.raises(InputError, match=rf"out/{name}: cannot be written \(No space left"):
        write_results(str(output), suite, states, record)
    assert (output / name).read_text() == "before" and not list(output.glob("*.tmp"))


def test_folders_that_cannot_be_made_are_a_line(read, train, output):
    suite = read()
    (output / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"plain/seed1: cannot be written \("):
        train(suite)
    (output / "measured").write_text("a file")
    with pytest.raises(InputError, match=r"measured/plain: cannot be written \("):
        measure(suite, str(output), suite.runs, 40)


def test_a_folder_that_cannot_be_locked_is_a_line(read, train, monkeypatch):
    def flock(file, how) -> None:
        if how & fcntl.LOCK_NB:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"seed1/lock cannot be locked: No locks available"):
        train(read())
