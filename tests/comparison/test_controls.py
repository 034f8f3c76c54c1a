"""The controls of a comparison: what is planned, run, kept and shown of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from suite_helpers import fake_training, fake_zeroed

from lambda_det.comparison import (
    collect,
    comparison_tables,
    execute,
    read_suite,
    results_markdown,
)
from lambda_det.comparison.controls import (
    CONTROLS,
    IDLE,
    NO_BETTER,
    RESTS,
    UNKNOWN,
    controls_line,
    verdict,
)
from lambda_det.comparison.outputs import write_record
from lambda_det.comparison.planning import measure, plan_text
from lambda_det.comparison.report import html_report
from lambda_det.comparison.results import zeroed_missing
from lambda_det.comparison.run import zeroed_command
from lambda_det.comparison.run_files import FAILED, FINISHED, state_of
from lambda_det.comparison.suite import Suite, chosen_runs
from lambda_det.comparison.tables import brief_table
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow

IDLE_STAGES = "MODEL.LAMBDA_RESNET.IDLE_STAGES"


@pytest.fixture
def controlled(content) -> dict:
    """The small suite with the controls that a suite has by default, and two seeds."""
    del content["controls"]
    return content | {"seeds": [1, 2]}


def run_all(suite: Suite, output: Path, **arguments: object) -> dict:
    return execute(
        suite, str(output), command=fake_training, evaluate=fake_zeroed, jobs=2, **arguments
    )


def lines(output: Path, name: str) -> list[str]:
    return sorted((output / name).read_text().splitlines())


def record_of(suite: Suite, states: dict) -> dict:
    return collect(suite, states, lambda cfg: {}, command="python x")


# -- what is planned -------------------------------------------------------------------------------


def test_each_model_and_seed_is_trained_without_the_branches(controlled, write_suite, tmp_path):
    suite = read_suite(write_suite(controlled), str(tmp_path / "out"))
    assert suite.controls == CONTROLS
    assert [run.key for run in suite.runs] == [
        "plain/seed1", "lambda/seed1", "plain/seed1_without", "lambda/seed1_without",
        "plain/seed2", "lambda/seed2", "plain/seed2_without", "lambda/seed2_without",
    ]  # fmt: skip
    whole, control = suite.runs[1], suite.runs[3]
    assert control.folder == f"{whole.folder}_without" and control.seed == whole.seed
    assert (whole.zeroed, control.zeroed) == (True, False)
    assert control.name == "lambda seed 1 without res4 and res5"
    assert suite.config_of(control).MODEL.LAMBDA_RESNET.IDLE_STAGES == ["res4", "res5"]
    assert suite.config_of(whole) == suite.configs["", "lambda"]
    different = {k for k, v in control.settings.items() if whole.settings[k] != v}
    assert different == {IDLE_STAGES} and control.settings[IDLE_STAGES] == ["res4", "res5"]
    added = control.arguments[len(whole.overrides) + 2 :]
    assert added[:2] == [IDLE_STAGES, '["res4", "res5"]']
    assert [run.key for run in chosen_runs(suite, ["lambda"])] == [
        "lambda/seed1", "lambda/seed1_without", "lambda/seed2", "lambda/seed2_without",
    ]  # fmt: skip
    assert chosen_runs(suite, ["lambda/seed1"]) == [whole]
    assert chosen_runs(suite, ["lambda/seed1_without"]) == [control]


@pytest.mark.parametrize(
    ("chosen", "runs", "zeroed"),
    [(["zeroed"], 4, 4), (["trained_without"], 8, 0), ([], 4, 0),
     (["trained_without", "zeroed"], 8, 4)],
)  # fmt: skip
def test_a_suite_chooses_its_controls(controlled, write_suite, chosen, runs, zeroed):
    suite = read_suite(write_suite(controlled | {"controls": chosen}), "out")
    assert len(suite.runs) == runs and sum(run.zeroed for run in suite.runs) == zeroed
    assert set(suite.controls) == set(chosen)


@pytest.mark.parametrize("value", ["zeroed", ["frozen"], [["zeroed"]]])
def test_wrong_controls_are_a_line(controlled, write_suite, value):
    with pytest.raises(InputError) as error:
        read_suite(write_suite(controlled | {"controls": value}), "out")
    assert f"controls {value!r}; a list of zeroed and trained_without" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_model_holds_at_0_itself_stays_so(controlled, write_suite):
    controlled["models"]["plain"]["overrides"][IDLE_STAGES] = "['res3']"
    controlled["models"]["lambda"]["overrides"] = {IDLE_STAGES: "['res5', 'res4']"}
    suite = read_suite(write_suite(controlled), "out")
    (control,) = [run for run in suite.runs if run.without and run.seed == 1]
    assert control.model == "plain" and control.settings[IDLE_STAGES] == ["res3", "res4", "res5"]
    assert not any(run.zeroed for run in suite.runs if run.model == "lambda")


def test_another_backbone_has_no_controls(controlled, write_suite, output):
    controlled["models"]["lambda"]["overrides"] = {
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"
    }
    suite = read_suite(write_suite(controlled), str(output))
    assert {run.model for run in suite.runs if run.without or run.zeroed} == {"plain"}
    record = record_of(suite, run_all(suite, output))
    text = results_markdown(record)
    assert "No controls for λ-50: the backbone is not of this package" in text
    assert "says nothing of the backbones" not in text  # of λ-50 it is not known
    assert "| λ-50 | 2/2 | 35.0 ± 1.4 | – | – | – | +3.5" in text


@pytest.mark.parametrize(
    "keys",
    [{"MODEL.LAMBDA_RESNET.NORM": ""}, {"MODEL.LAMBDA_RESNET.OUT_FEATURES": "['res3', 'res4']"}],
)
def test_what_cannot_be_zeroed_has_no_controls(controlled, write_suite, keys):
    """Branches without a norm at their end, and a res5 that is not built."""
    controlled["models"]["lambda"]["overrides"] = keys
    suite = read_suite(write_suite(controlled), "out")
    assert {run.model for run in suite.runs if run.without or run.zeroed} == {"plain"}


# -- what is run -----------------------------------------------------------------------------------


def test_each_control_is_made_once(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    states = run_all(suite, output)
    assert set(states.values()) == {FINISHED} and len(states) == 8
    assert lines(output, "started.txt") == sorted(
        f"{model} {seed}{end}" for model in ("lambda", "plain") for seed in (1, 2)
        for end in ("", " without")
    )  # fmt: skip
    zeroed = ["lambda seed1", "lambda seed2", "plain seed1", "plain seed2"]
    assert lines(output, "zeroed.txt") == zeroed
    run_all(suite, output)
    assert lines(output, "zeroed.txt") == zeroed and len(lines(output, "started.txt")) == 8


def test_runs_of_an_earlier_version_get_their_controls(read, content, output):
    """Whose run.json does not know the key, and which nobody trains again."""
    content["seeds"] = [1]
    suite = read()
    run_all(suite, output)
    for run in suite.runs:
        path = Path(run.folder, "run.json")
        known = json.loads(path.read_text())
        known["settings"].pop(IDLE_STAGES)
        path.write_text(json.dumps(known))
    del content["controls"]
    suite = read()
    assert [state_of(run) for run in suite.runs if not run.without] == [FINISHED] * 2
    before = record_of(suite, {run: state_of(run) for run in suite.runs})
    assert "- plain seed 1, with res4 and res5 zeroed: not evaluated yet" in results_markdown(
        before
    )
    record = record_of(suite, run_all(suite, output))
    assert lines(output, "started.txt") == [
        "lambda 1", "lambda 1 without", "plain 1", "plain 1 without",
    ]  # fmt: skip
    assert "Not finished" not in results_markdown(record)
    assert record["rows"][0]["box_ap_zeroed"]["values"] == [30.75]


def test_a_failed_evaluation_loses_no_run(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled | {"controls": ["zeroed"]}), str(output))
    (output / "break_zeroed").write_text("lambda")
    states = run_all(suite, output)
    assert set(states.values()) == {FINISHED}
    record = record_of(suite, states)
    plain, lambda_ = record["rows"]
    assert "box_ap_zeroed" in plain and "box_ap_zeroed" not in lambda_ and lambda_["finished"] == 2
    text = results_markdown(record)
    assert "- lambda seed 2, with res4 and res5 zeroed: error: no such weights" in text
    assert "| λ-50 | 2/2 | 35.0 ± 1.4 | – | +3.5" in text
    launch = plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")
    assert "lambda seed 1 (λ-50), finished\n  with res4 and res5 zeroed: error: no such" in launch
    assert "launch lambda/seed1" in launch and "launch plain/seed1" not in launch

    with pytest.raises(
        InputError, match=r"is not written because the evaluation with zeroed branches"
    ):
        write_record(str(output / "record.json"), states, record_of(suite, states))
    assert not (output / "record.json").exists()
    (output / "break_zeroed").unlink()
    execute_states = run_all(suite, output)
    assert "box_ap_zeroed" in record_of(suite, execute_states)["rows"][1]
    assert len(lines(output, "started.txt")) == 4 and len(lines(output, "zeroed.txt")) == 6


def test_a_broken_result_is_evaluated_anew(controlled, write_suite, output):
    controlled |= {"controls": ["zeroed"], "seeds": [1]}
    suite = read_suite(write_suite(controlled), str(output))
    run_all(suite, output)
    path = Path(suite.runs[0].folder, "zeroed_res4_res5", "inference", "metrics.json")
    path.write_text("{")
    assert zeroed_missing(suite.runs[0]) == "not evaluated yet"
    run_all(suite, output)
    assert zeroed_missing(suite.runs[0]) is None
    assert lines(output, "zeroed.txt") == ["lambda seed1", "plain seed1", "plain seed1"]


def test_weights_that_are_gone_are_a_line(controlled, write_suite, output):
    controlled |= {"controls": ["zeroed"], "seeds": [1]}
    suite = read_suite(write_suite(controlled), str(output))
    (output / "break_zeroed").write_text("plain lambda")
    run_all(suite, output)
    for run in suite.runs:
        os.unlink(Path(run.folder, "model_final.pth"))
    states = run_all(suite, output)
    assert len(lines(output, "zeroed.txt")) == 2  # no process for nothing
    reason = f"{suite.runs[0].folder}/model_final.pth is missing"
    assert record_of(suite, states)["runs"][0]["zeroed_missing"] == reason


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_is_zeroed_are_the_weights_that_were_judged(controlled, write_suite, output, decay):
    controlled["overrides"]["SOLVER.EMA_DECAY"] = decay
    run = read_suite(write_suite(controlled), str(output)).runs[0]
    words = zeroed_command(run)
    assert words[words.index("--zeroed") + 1] == "res4,res5"
    assert words[words.index("--config-file") + 1] == f"{run.folder}/config.yaml"
    assert words[words.index("OUTPUT_DIR") + 1] == run.folder
    name = "model_final_ema.pth" if decay else "model_final.pth"
    assert words[-2:] == ["MODEL.WEIGHTS", f"{run.folder}/{name}"]


def test_a_failed_training_without_branches_is_one_of_the_runs(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    (output / "break").write_text("plain")
    states = run_all(suite, output)
    text = results_markdown(record_of(suite, states))
    assert "- plain seed 1 without res4 and res5, failed: error: no such thing" in text
    assert {state for run, state in states.items() if run.model == "plain"} == {FAILED}


# -- what is kept ----------------------------------------------------------------------------------


def test_rows_have_the_controls_beside_the_ap(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    record = record_of(suite, run_all(suite, output))
    assert record["controls"] == list(CONTROLS)
    plain, lambda_ = record["rows"]
    assert (plain["finished"], plain["planned"]) == (2, 2)
    assert lambda_["box_ap"]["values"] == [34, 36]  # and not those of the trainings without
    assert lambda_["box_ap_zeroed"] == {"mean": 15, "sd": 1.414, "values": [14, 16]}
    assert lambda_["box_ap_trained_without"]["values"] == [28, 30]
    over = {"mean": 6, "low": 6, "high": 6, "values": [6, 6]}
    assert lambda_["box_ap_over_trained_without"] == over
    assert plain["box_ap_over_trained_without"]["mean"] == -1
    assert lambda_["box_ap_gain"]["values"] == [3, 4]
    assert lambda_["last_norm"] == {"res4": 0.15} and "mask_ap_zeroed" not in lambda_
    runs = {(r["model"], r["seed"], "without" in r): r for r in record["runs"]}
    assert len(runs) == 8
    run = runs["lambda", 2, False]
    assert (run["box_ap"], run["box_ap_zeroed"], run["box_ap_trained_without"]) == (36, 16, 30)
    assert run["last_norm"] == {"res4": 0.2}
    control = runs["lambda", 2, True]
    assert control["without"] == ["res4", "res5"] and control["box_ap"] == 30
    assert "box_ap_zeroed" not in control and "box_ap_trained_without" not in control


def test_controls_are_of_their_set(controlled, write_suite, output):
    controlled |= {"seeds": [1], "sets": {"hard": {}, "easy": {}}}
    suite = read_suite(write_suite(controlled), str(output))
    record = record_of(suite, run_all(suite, output))
    found = [(r["set"], r["model"], r["box_ap_trained_without"]["mean"]) for r in record["rows"]]
    assert found == [
        ("hard", "plain", 32),
        ("hard", "lambda", 28),
        ("easy", "plain", 42),
        ("easy", "lambda", 38),
    ]


# -- what is shown ---------------------------------------------------------------------------------


def test_tables_and_report_show_the_controls(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    states = run_all(suite, output)
    record = record_of(suite, states)
    head = "| box AP | zeroed | trained without | AP − trained without | Δ |"
    line = (
        "Residual branches of res4 and res5: the AP of R-50 does not rest on them (it is no worse "
        "with them zeroed); the AP of λ-50 rests on them."
    )
    for text in (results_markdown(record), comparison_tables(record)):
        assert head in text and f"\n\n{line}\n\n" in text
        assert "| λ-50 | 2/2 | 35.0 ± 1.4 | 15.0 ± 1.4 | 29.0 ± 1.4 | +6.0 [+6.0, +6.0] |" in text
        assert "Zeroed: the same weights" in text and "Trained without: the same recipe" in text
    line_of_brief = "| λ-50 | 35.0 ± 1.4 | 29.0 ± 1.4 | +3.5 [−2.9, +9.9] |"
    assert line_of_brief in brief_table(record)
    page = html_report(suite, states, record)
    assert f"<p class=note>{line}</p>" in page and "<th>AP − trained without</th>" in page
    assert "trained without res4 and res5" in page  # in the table of runs
    cards = page[page.index("<div class=cards>") : page.index("<h2>")]
    assert "says nothing" not in cards
    assert page.count("λ-50</text>") == html_report(
        suite, {r: s for r, s in states.items() if not r.without}, record
    ).count("λ-50</text>")


def test_a_gain_that_says_nothing_is_not_shouted(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    states = run_all(suite, output)
    record = record_of(suite, states)
    row = record["rows"][1]
    row["box_ap_gain"] = {"mean": 3.5, "low": 3.0, "high": 4.0, "values": [3, 4]}
    cards = html_report(suite, states, record)
    assert "<div class=big><span class=more><b>+3.5</b>" in cards
    row["box_ap_over_trained_without"]["low"] = -0.1
    page = html_report(suite, states, record)
    assert "<div class=big><span class=even><b>+3.5</b>" in page
    assert "<b>says nothing of the backbones</b></small>" in page
    assert "So this comparison says nothing of the backbones." in results_markdown(record)
    del row["box_ap_over_trained_without"]
    assert "<b>not known whether it rests on res4 and res5</b></small>" in html_report(
        suite, states, record
    )


def test_records_without_controls_have_no_line(content, write_suite, output):
    suite = read_suite(write_suite(content | {"seeds": [1]}), str(output))
    record = record_of(suite, run_all(suite, output))
    assert "controls" not in record and "branches" not in results_markdown(record)
    assert not (output / "zeroed.txt").exists()


def difference(mean: float, low: float | None = None, *values: float) -> dict:
    return {"mean": mean, "low": low, "high": None, "values": list(values) or [mean]}


@pytest.mark.parametrize(
    ("zeroed", "without", "expected"),
    [
        (difference(30), difference(2, 0.1), RESTS),
        (None, difference(2, 0.1), RESTS),
        (difference(30), difference(2, 0.0), NO_BETTER),
        (difference(30), difference(2, -0.1), NO_BETTER),
        (difference(30), difference(-2, -3), NO_BETTER),
        (difference(30), difference(2), UNKNOWN),
        (difference(30), difference(0), NO_BETTER),
        (difference(30), None, UNKNOWN),
        (None, None, UNKNOWN),
        (difference(0.4), None, IDLE),
        (difference(-3), difference(2, 0.1), IDLE),
        (difference(0.41), None, UNKNOWN),
        (difference(0.0, -9, -9.0, 9.0), None, UNKNOWN),  # one seed lacks its branches
    ],
)
def test_verdict(zeroed, without, expected):
    assert verdict(40, zeroed, without) == expected


def test_tasks_that_differ_are_named():
    row = {
        "label": "λ-50", "controls": ["zeroed"], "box_ap": {"mean": 40}, "mask_ap": {"mean": 40},
        "box_ap_over_zeroed": difference(0), "mask_ap_over_zeroed": difference(30),
    }  # fmt: skip
    line = controls_line([row])
    assert "the AP of λ-50 (box) does not rest" in line and "of λ-50 (mask) rests" in line
    assert "(worse when zeroed proves nothing, and none was trained without them)" in line
    assert "says nothing of" not in line
    assert controls_line([row | {"controls": []}]) == controls_line([]) == ""


# -- what it costs ---------------------------------------------------------------------------------


def test_the_plan_counts_the_trainings_without_branches(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    run_all(suite, output, only=chosen_runs(suite, ["lambda/seed1", "plain/seed1"]))
    text = plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")
    assert "lambda seed 1 without res4 and res5 (λ-50), new: 20 iterations" in text
    assert "launch lambda/seed1_without" in text and "time unknown" not in text
    assert text.count("  at most ") == 4  # as with the branches, while nothing better is known
    run_all(suite, output, only=chosen_runs(suite, ["lambda/seed1_without"]))
    text = plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")
    assert text.count("  at most ") == 2


def test_what_is_measured_without_branches_has_its_own_folder(controlled, write_suite, output):
    suite = read_suite(write_suite(controlled), str(output))
    record = measure(suite, str(output), suite.runs, 40, command=fake_measured)
    assert [row["label"] for row in record["rows"]] == [
        "R-50", "λ-50", "R-50 without res4 and res5", "λ-50 without res4 and res5",
    ]  # fmt: skip
    for folder in ("measured", "measured_without"):
        assert sorted(os.listdir(output / folder)) == ["lambda", "plain"]


def fake_measured(run) -> list[str]:
    line = json.dumps({"iteration": 39, "time": 1.0})
    return ["sh", "-c", f"cd {run.folder} && echo 'SOLVER: {{IMS_PER_BATCH: 8}}' > config.yaml && "
            f"echo '{line}' > metrics.json"]  # fmt: skip
