"""The small JSON of a finished run: enough for the tables and curves, on whatever machine."""

from __future__ import annotations

import json
import shutil

import pytest
from suite_helpers import fake_zeroed

from lambda_det.errors import InputError
from lambda_det.experiments import collect, execute, read_suite
from lambda_det.experiments.collect import comparison_record
from lambda_det.experiments.outputs import write_results
from lambda_det.experiments.run_files import FINISHED, NEW, state_of


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
    for row in (*record["runs"], *again["runs"]):  # of the run that was made anew
        row.pop("peak_host_memory_mib", 0), row.pop("run_s", 0)
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
    with pytest.raises(InputError, match=r"seed1.json holds a run with SOLVER.BASE_LR 0.05, .*0.5"):
        state_of(suite.runs[0])


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


def test_the_folder_is_a_path(content, write_suite, output):
    content["keep"] = ["x"]
    with pytest.raises(InputError, match=r"keep \['x'\]; the path of a folder is needed"):
        read_suite(write_suite(content), str(output))
