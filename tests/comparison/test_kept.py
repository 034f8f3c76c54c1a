"""The small JSON of a finished run: enough for the tables and curves, on whatever machine."""

from __future__ import annotations

import json
import shutil

import pytest
from suite_helpers import fake_zeroed, make_output

from lambda_det.comparison import collect, execute, read_suite, run_files
from lambda_det.comparison.collect import comparison_record
from lambda_det.comparison.outputs import write_results
from lambda_det.comparison.results import keep
from lambda_det.comparison.run_files import FINISHED, NEW, state_of
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS

pytestmark = pytest.mark.slow


@pytest.fixture
def content(content: dict) -> dict:
    return content | {"keep": "kept/mine", "controls": ["zeroed", "trained_without"]}


def run_all(content, write_suite, output, fake_command):
    suite = read_suite(write_suite(content), str(output))
    states = execute(suite, str(output), command=fake_command, evaluate=fake_zeroed)
    return suite, states


def test_a_fresh_checkout_goes_on_from_what_was_kept(content, write_suite, output, fake_command):
    suite, states = run_all(content, write_suite, output, fake_command)
    assert set(states.values()) == {FINISHED}
    kept = output.parent / "kept" / "mine"
    assert (kept / "lambda" / "seed2_without.json").is_file() and len([*kept.rglob("*.json")]) == 12
    assert (kept / "lambda" / "seed2.json").stat().st_size < 20_000
    record = comparison_record(suite, collect(suite, states, lambda cfg: {}), "x")
    shutil.rmtree(output / "runs")
    (output / "started.txt").unlink()
    (kept / "plain" / "seed3.json").unlink()

    elsewhere = output.rename(output.parent / "elsewhere")
    suite = read_suite(write_suite(content), str(elsewhere))
    assert [run.key for run in suite.runs if state_of(run) == NEW] == ["plain/seed3"]
    states = execute(suite, str(elsewhere), command=fake_command, evaluate=fake_zeroed)
    assert (elsewhere / "started.txt").read_text() == "plain 3\n"
    again = comparison_record(suite, collect(suite, states, lambda cfg: {}), "x")
    for row in (record["runs"][8], again["runs"][8]):  # the run that was made anew
        assert (row["model"], row["seed"], "without" in row) == ("plain", 3, False)
        row.pop("run_s")
    assert again["runs"] == record["runs"]
    assert (
        again["rows"][1]["box_ap_over_trained_without"]
        == (record["rows"][1]["box_ap_over_trained_without"])
    )
    write_results(str(elsewhere), suite, states, again)
    assert "<h2>Training loss</h2>" in (elsewhere / "report.html").read_text()


def test_a_run_with_other_settings_is_not_taken_for_this_one(
    content, write_suite, output, fake_command
):
    run_all(content, write_suite, output, fake_command)
    shutil.rmtree(output / "runs")
    content["overrides"]["SOLVER.BASE_LR"] = 0.5
    suite = read_suite(write_suite(content), str(output))
    with pytest.raises(
        InputError, match=r"seed1.json contains a run with SOLVER.BASE_LR 0.05, .*0.5"
    ):
        state_of(suite.runs[0])


def test_other_data_and_another_run_are_refused(content, write_suite, output, fake_command):
    content["prepare"] = ["true 2000"]
    suite, _ = run_all(content, write_suite, output, fake_command)
    first, second = suite.runs[0].kept, suite.runs[4].kept
    shutil.copy(first, second)
    with pytest.raises(InputError, match="belongs to the run 'plain/seed1', not 'plain/seed2'"):
        state_of(suite.runs[4])
    content["prepare"] = ["true 10"]
    suite = read_suite(write_suite(content), str(output.parent / "other"))
    with pytest.raises(InputError, match=r"prepare \['true 2000'\], the suite says \['true 10'\]"):
        state_of(suite.runs[0])


def test_defaults_of_another_version_change_nothing(
    content, write_suite, output, fake_command, monkeypatch
):
    suite, _ = run_all(content, write_suite, output, fake_command)
    shutil.rmtree(output / "runs")
    known = run_files.default_settings() | {"SOLVER.MOMENTUM": 0.5}
    monkeypatch.setattr(run_files, "default_settings", lambda: known)
    assert state_of(suite.runs[0]) == FINISHED


def test_a_folder_of_another_run_is_not_kept_under_its_name(
    content, write_suite, output, fake_command
):
    """Two comparisons with one folder of what is kept: what is there first stays."""
    suite, _ = run_all(content, write_suite, output, fake_command)
    before = {path: path.read_text() for path in (output.parent / "kept").rglob("*.json")}
    (output / "values.json").write_text(json.dumps(dict.fromkeys(METRICS, 77.0)))
    other = make_output(output.parent / "other")
    suite = read_suite(write_suite(content), str(other))
    states = execute(suite, str(other), command=fake_command, evaluate=fake_zeroed)
    assert set(states.values()) == {FINISHED} and not (other / "started.txt").exists()
    assert {path: path.read_text() for path in before} == before


def test_what_had_finished_before_is_kept_too(content, write_suite, output, fake_command):
    kept = content.pop("keep")
    run_all(content, write_suite, output, fake_command)
    content["keep"] = kept
    suite = read_suite(write_suite(content), str(output))
    for run in suite.runs:
        keep(run)
    assert len([*(output.parent / "kept").rglob("*.json")]) == 12


def test_a_suite_is_found_by_a_relative_path(
    content, write_suite, output, fake_command, monkeypatch
):
    path = write_suite(content)
    monkeypatch.chdir(output.parent)
    suite = read_suite("suite.yaml", str(output))
    execute(suite, str(output), command=fake_command, evaluate=fake_zeroed)
    shutil.rmtree(output / "runs")
    for name in ("suite.yaml", path):
        assert {state_of(run) for run in read_suite(name, str(output)).runs} == {FINISHED}


def test_a_broken_one_counts_as_none(content, write_suite, output, fake_command, caplog):
    suite, _ = run_all(content, write_suite, output, fake_command)
    run = suite.runs[0]
    for text in ("{", "{}", json.dumps({"settings": {}, "row": {}})):
        with open(run.kept, "w") as file:
            file.write(text)
        assert state_of(run) == FINISHED  # of its folder
        assert f"{run.kept} is broken" in caplog.text
        caplog.clear()
    shutil.rmtree(run.folder)
    assert state_of(run) == NEW


def test_controls_that_are_asked_for_later_are_made(content, write_suite, output, fake_command):
    content["controls"] = []
    suite, _ = run_all(content, write_suite, output, fake_command)
    content["controls"] = ["zeroed"]
    suite, states = run_all(content, write_suite, output, fake_command)
    assert len((output / "started.txt").read_text().splitlines()) == 6
    rows = collect(suite, states, lambda cfg: {})["runs"]
    assert all("box_ap_zeroed" in row for row in rows)
    # And what is not asked for any more is not shown.
    content["controls"] = []
    suite, states = run_all(content, write_suite, output, fake_command)
    rows = collect(suite, states, lambda cfg: {})["runs"]
    assert not any("box_ap_zeroed" in row for row in rows)


def test_controls_that_need_the_weights_train_again(content, write_suite, output, fake_command):
    content["controls"] = []
    run_all(content, write_suite, output, fake_command)
    shutil.rmtree(output / "runs")
    content["controls"] = ["zeroed"]
    suite = read_suite(write_suite(content), str(output))
    assert {state_of(run) for run in suite.runs} == {NEW}


def test_the_folder_is_a_path(content, write_suite, output):
    content["keep"] = ["x"]
    with pytest.raises(InputError, match=r"keep \['x'\]; the path of a folder is needed"):
        read_suite(write_suite(content), str(output))
