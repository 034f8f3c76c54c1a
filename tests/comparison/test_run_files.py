"""Files of a run and of a comparison that are broken, another's, or cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lambda_det.comparison import collect, execute, read_suite
from lambda_det.comparison.collect import comparison_record
from lambda_det.comparison.outputs import write_results
from lambda_det.comparison.planning import measure
from lambda_det.comparison.run_files import FINISHED, NEW, STARTED, state_of
from lambda_det.comparison.suite import Run
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def finished(content, write_suite, output, fake_command):
    """A suite of two finished runs."""
    content["seeds"] = [1]
    suite = read_suite(write_suite(content), str(output))
    assert set(execute(suite, str(output), command=fake_command).values()) == {FINISHED}
    return suite


BROKEN = (
    (lambda text: text[: len(text) // 2], "broken"),
    (lambda text: "", "broken"),
    (lambda text: "[1]", "not a JSON object"),
    (lambda text: text.replace('"gpus"', '"cpus"'), "no 'gpus'"),
    (lambda text: text.replace('"hardware": {', '"hardware": 3, "x": {'), "'hardware' is 3"),
    (lambda text: text.replace('"jobs": 1', '"jobs": null'), "'jobs' is None"),
    (lambda text: text.replace('"last_attempt_s": ', '"last_attempt_s": NaN, "x": '), "nan"),
)


def test_a_run_with_a_broken_verdict_counts_as_unfinished(finished, caplog):
    plain, lambda_ = finished.runs
    path = Path(plain.folder, "finished.json")
    whole = path.read_text()
    for change, reason in BROKEN:
        path.write_text(change(whole))
        caplog.clear()
        states = {run: state_of(run) for run in finished.runs}
        assert states == {plain: STARTED, lambda_: FINISHED}
        (line,) = [record.getMessage() for record in caplog.records]
        assert f"{path} is broken" in line and reason in line and "\n" not in line
        assert line.endswith("the run counts as unfinished")
    record = comparison_record(finished, collect(finished, states, lambda cfg: {}), "python x")
    assert [row["finished"] for row in record["rows"]] == [0, 1]


def test_what_lies_beside_a_broken_verdict_is_not_lost(finished, output, fake_command):
    folder = Path(finished.runs[0].folder)
    (folder / "finished.json").write_text("{")
    (folder / "model_final.pth").write_text("weights")
    states = execute(finished, str(output), command=fake_command)
    assert set(states.values()) == {FINISHED}
    aside = folder / "set_aside_1"
    assert (aside / "finished.json").read_text() == "{"
    assert (aside / "model_final.pth").read_text() == "weights"
    assert (aside / "inference" / "metrics.json").is_file()
    (folder / "finished.json").write_text("{")
    execute(finished, str(output), command=fake_command)
    assert aside.is_dir() and (folder / "set_aside_2").is_dir()


def test_a_resumed_run_keeps_its_checkpoint_beside_a_broken_verdict(
    content, write_suite, output, fake_command
):
    content |= {"seeds": [1], "resume": True}
    suite = read_suite(write_suite(content), str(output))
    execute(suite, str(output), command=fake_command)
    folder = Path(suite.runs[0].folder)
    (folder / "finished.json").write_text("{")
    seen = []

    def command(run: Run) -> list[str]:
        seen.append(sorted(os.listdir(run.folder)))
        return ["true"]

    assert execute(suite, str(output), command=command)[suite.runs[0]] == FINISHED
    assert "last_checkpoint" in seen[0] and "finished.json" not in seen[0]
    assert os.listdir(folder / "set_aside_1") == ["finished.json"]


@pytest.mark.parametrize("key", ["SOLVER.MAX_SKIPPED_STEPS", "SOLVER.MOMENTUM"])
def test_a_key_that_a_run_did_not_know_was_at_its_default(
    finished, content, write_suite, output, key
):
    for run in finished.runs:
        path = Path(run.folder, "run.json")
        known = json.loads(path.read_text())
        known["settings"].pop(key)
        path.write_text(json.dumps(known))
        assert state_of(run) == FINISHED
    default = finished.runs[0].settings[key]
    content["overrides"][key] = default + 1
    (run, *_) = read_suite(write_suite(content), str(output)).runs
    line = rf"contains a run with {key} {default}, the suite says {default + 1}; choose another"
    with pytest.raises(InputError, match=line):
        state_of(run)


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
    path.write_text(json.dumps(known | {"changed": ["MODEL.OTHER"]}))
    with pytest.raises(InputError, match=r"run.json is broken \('changed' names 'MODEL.OTHER'\)"):
        state_of(run)


def test_a_verdict_without_a_description_is_set_aside(finished, output, fake_command):
    run = finished.runs[0]
    Path(run.folder, "run.json").unlink()
    assert state_of(run) == NEW
    assert set(execute(finished, str(output), command=fake_command).values()) == {FINISHED}
    assert Path(run.folder, "set_aside_1", "finished.json").is_file()


def test_a_broken_description_is_a_line(finished, output, fake_command):
    path = Path(finished.runs[0].folder, "run.json")
    for text in ("", "{", "[]", '{"settings": 3}', '{"attempts": 1}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"plain/seed1/run.json is broken .*not known; remove"):
            execute(finished, str(output), command=fake_command)
    assert Path(finished.runs[0].folder, "finished.json").is_file()


def test_a_broken_failure_counts_as_unfinished(finished, caplog):
    folder = Path(finished.runs[0].folder)
    (folder / "finished.json").unlink()
    (folder / "failed.json").write_text('{"reason": null}')
    assert state_of(finished.runs[0]) == STARTED
    assert "failed.json is broken ('reason' is None)" in caplog.text


def fail_on(monkeypatch, name: str, code: int = errno.ENOSPC) -> None:
    """Every file of that name cannot be written: its disk is full."""
    real = os.replace

    def replace(source, target) -> None:
        if os.path.basename(target) == name:
            raise OSError(code, os.strerror(code))
        real(source, target)

    monkeypatch.setattr("os.replace", replace)


@pytest.mark.parametrize("name", ["run.json", "finished.json", "failed.json"])
def test_a_full_disk_is_a_line_and_ends_no_other_run(
    content, write_suite, output, fake_command, monkeypatch, name
):
    content["seeds"] = [1, 2]
    suite = read_suite(write_suite(content), str(output))
    (output / "break").write_text("plain lambda" if name == "failed.json" else "")
    fail_on(monkeypatch, name)
    with pytest.raises(InputError, match=rf"seed1/{name}: cannot be written \(No space left"):
        execute(suite, str(output), command=fake_command)
    started = Path(output, "started.txt")
    assert not started.exists() if name == "run.json" else started.read_text() == "plain 1\n"
    assert not list(output.rglob("*.tmp"))


def test_what_trains_ends_before_the_full_disk_is_told(
    content, write_suite, output, fake_command, monkeypatch
):
    content["seeds"] = [1]
    suite = read_suite(write_suite(content), str(output))
    (output / "wait").write_text("lambda")
    real = os.replace

    def replace(source, target) -> None:
        if os.fspath(target) == os.path.join(suite.runs[0].folder, "finished.json"):
            (output / "wait").unlink()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(InputError, match=r"plain/seed1/finished.json: cannot be written"):
        execute(suite, str(output), command=fake_command, jobs=2)
    assert [state_of(run) for run in suite.runs] == [STARTED, FINISHED]


@pytest.mark.parametrize("name", ["results.json", "results.md", "report.html"])
def test_results_that_cannot_be_written_are_a_line(content, write_suite, output, monkeypatch, name):
    suite = read_suite(write_suite(content), str(output))
    states = dict.fromkeys(suite.runs, NEW)
    record = comparison_record(suite, collect(suite, states), "python x")
    (output / name).write_text("before")
    fail_on(monkeypatch, name)
    with pytest.raises(InputError, match=rf"out/{name}: cannot be written \(No space left"):
        write_results(str(output), suite, states, record)
    assert (output / name).read_text() == "before"
    assert not list(output.glob("*.tmp"))


def test_folders_that_cannot_be_made_are_a_line(content, write_suite, output, fake_command):
    suite = read_suite(write_suite(content), str(output))
    (output / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"plain/seed1: cannot be written \("):
        execute(suite, str(output), command=fake_command)
    (output / "measured").write_text("a file")
    with pytest.raises(InputError, match=r"measured/plain: cannot be written \("):
        measure(suite, str(output), suite.runs, 40, command=fake_command)


def test_a_verdict_that_may_not_be_read_is_no_broken_one(finished):
    path = Path(finished.runs[0].folder, "finished.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"finished.json: cannot be read \(Is a directory"):
        state_of(finished.runs[0])
