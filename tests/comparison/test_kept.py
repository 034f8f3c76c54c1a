"""The small JSON of a finished run: enough for the tables and curves, on whatever machine."""

from __future__ import annotations

import json
import shutil

import pytest

from lambda_det.comparison import collect
from lambda_det.comparison.report import write_results
from lambda_det.comparison.results import keep
from lambda_det.comparison.run_files import FINISHED, NEW, state_of
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def content(content: dict) -> dict:
    return content | {"keep": "kept/mine", "controls": ["zeroed", "trained_without"]}


def test_a_fresh_checkout_goes_on_from_what_was_kept(read, train, output):
    suite = read()
    states = train(suite, jobs=2)
    assert set(states.values()) == {FINISHED}
    kept = output.parent / "kept" / "mine"
    assert (kept / "lambda" / "seed2_without.json").is_file() and len([*kept.rglob("*.json")]) == 12
    assert (kept / "lambda" / "seed2.json").stat().st_size < 20_000
    record = collect(suite, states, lambda cfg: {}, command="x")
    shutil.rmtree(output / "runs")
    (output / "started.txt").unlink()
    (kept / "plain" / "seed3.json").unlink()

    elsewhere = output.rename(output.parent / "elsewhere")
    suite = read(folder=elsewhere)
    assert [run.key for run in suite.runs if state_of(run) == NEW] == ["plain/seed3"]
    states = train(suite, elsewhere, jobs=2)
    assert (elsewhere / "started.txt").read_text() == "plain 3\n"
    again = collect(suite, states, lambda cfg: {}, command="x")
    for row in (record["runs"][8], again["runs"][8]):  # the run that was made anew
        assert (row["model"], row["seed"], "without" in row) == ("plain", 3, False)
        row.pop("run_s")
    assert again["runs"] == record["runs"]
    key = "box_ap_over_trained_without"
    assert again["rows"][1][key] == record["rows"][1][key]
    write_results(str(elsewhere), suite, states, again)
    assert "<h2>Training loss</h2>" in (elsewhere / "report.html").read_text()


def test_what_is_of_another_run_is_refused(read, train, content, output):
    content |= {"prepare": ["true 2000"], "seeds": [1, 2]}
    suite = read()
    train(suite)
    shutil.copy(suite.runs[0].kept, suite.runs[4].kept)
    with pytest.raises(InputError, match="belongs to the run 'plain/seed1', not 'plain/seed2'"):
        state_of(suite.runs[4])
    shutil.rmtree(output / "runs")
    content["prepare"] = ["true 10"]
    with pytest.raises(InputError, match=r"prepare \['true 2000'\], the suite says \['true 10'\]"):
        state_of(read().runs[0])
    content |= {"prepare": ["true 2000"]}
    with pytest.raises(
        InputError, match=r"seed1.json contains a run with SOLVER.BASE_LR 0.05, .*0.5"
    ):
        state_of(read("SOLVER.BASE_LR", "0.5").runs[0])


def test_what_had_finished_before_is_kept_too(read, train, content, output):
    kept = content.pop("keep")
    content["seeds"] = [1]
    train(read())
    content["keep"] = kept
    for run in read().runs:
        keep(run)
    assert len([*(output.parent / "kept").rglob("*.json")]) == 4


def test_a_broken_one_counts_as_none(read, train, content, caplog):
    content["seeds"] = [1]
    suite = read()
    train(suite)
    run = suite.runs[0]
    for text in ("{", json.dumps({"settings": {}, "row": {}})):
        with open(run.kept, "w") as file:
            file.write(text)
        caplog.clear()
        assert state_of(run) == FINISHED  # of its folder
        assert f"{run.kept} is " in caplog.text and "the run counts as unfinished" in caplog.text
    shutil.rmtree(run.folder)
    assert state_of(run) == NEW


def test_controls_that_are_asked_for_later_are_made(read, train, content, output):
    content |= {"controls": [], "seeds": [1]}
    train(read())
    content["controls"] = ["zeroed"]
    suite = read()
    rows = collect(suite, train(suite), lambda cfg: {})["runs"]
    assert len((output / "started.txt").read_text().splitlines()) == 2
    assert all("box_ap_zeroed" in row for row in rows)
    # And what is not asked for any more is not shown.
    content["controls"] = []
    suite = read()
    rows = collect(suite, train(suite), lambda cfg: {})["runs"]
    assert not any("box_ap_zeroed" in row for row in rows)


def test_controls_that_need_the_weights_train_again(read, train, content, output):
    content |= {"controls": [], "seeds": [1]}
    train(read())
    shutil.rmtree(output / "runs")
    content["controls"] = ["zeroed"]
    assert {state_of(run) for run in read().runs} == {NEW}
