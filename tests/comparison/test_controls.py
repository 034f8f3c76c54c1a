"""The controls of a comparison: what is planned, run, kept and shown of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lambda_det.commands.compare import write_record
from lambda_det.comparison import collect, planning, results_markdown
from lambda_det.comparison.controls import CONTROLS
from lambda_det.comparison.planning import measure, plan_text
from lambda_det.comparison.results import zeroed_missing
from lambda_det.comparison.run import zeroed_command
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.suite import Suite, chosen_runs
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow

IDLE_STAGES = "MODEL.LAMBDA_RESNET.IDLE_STAGES"


@pytest.fixture
def content(content: dict) -> dict:
    """The small suite with the controls that a suite has by default, and two seeds."""
    del content["controls"]
    return content | {"seeds": [1, 2]}


def lines(output: Path, name: str) -> list[str]:
    return sorted((output / name).read_text().splitlines())


def record_of(suite: Suite, states: dict) -> dict:
    return collect(suite, states, lambda cfg: {}, command="python x")


# -- what is planned -------------------------------------------------------------------------------


def test_each_model_and_seed_is_trained_without_the_branches(read):
    suite = read()
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
def test_a_suite_chooses_its_controls(read, content, chosen, runs, zeroed):
    content |= {"controls": chosen}
    suite = read()
    assert len(suite.runs) == runs and sum(run.zeroed for run in suite.runs) == zeroed
    assert set(suite.controls) == set(chosen)


def test_what_a_model_holds_at_0_itself_stays_so(read, content):
    content["models"]["plain"]["overrides"][IDLE_STAGES] = "['res3']"
    content["models"]["lambda"]["overrides"] = {IDLE_STAGES: "['res5', 'res4']"}
    suite = read()
    (control,) = [run for run in suite.runs if run.without and run.seed == 1]
    assert control.model == "plain" and control.settings[IDLE_STAGES] == ["res3", "res4", "res5"]
    assert not any(run.zeroed for run in suite.runs if run.model == "lambda")


def test_what_cannot_be_zeroed_has_no_controls(read, train, content):
    for (
        keys
    ) in (  # branches without a norm at their end, a res5 that is not built, another backbone
        {"MODEL.LAMBDA_RESNET.NORM": ""},
        {"MODEL.LAMBDA_RESNET.OUT_FEATURES": "['res3', 'res4']"},
        {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"},
    ):
        content["models"]["lambda"]["overrides"] = keys
        suite = read()
        assert {run.model for run in suite.runs if run.without or run.zeroed} == {"plain"}
    record = record_of(suite, train(suite, jobs=2))
    text = results_markdown(record)
    assert "No controls for λ-50: the backbone is not of this package" in text
    assert "says nothing of the backbones" not in text  # of λ-50 it is not known
    assert "| λ-50 | 2/2 | 35.0 ± 1.4 | – | – | – | +3.5" in text


# -- what is run -----------------------------------------------------------------------------------


def test_each_control_is_made_once(read, train, output):
    suite = read()
    states = train(suite, jobs=2)
    assert set(states.values()) == {FINISHED} and len(states) == 8
    assert lines(output, "started.txt") == sorted(
        f"{model} {seed}{end}" for model in ("lambda", "plain") for seed in (1, 2)
        for end in ("", " without")
    )  # fmt: skip
    zeroed = ["lambda seed1", "lambda seed2", "plain seed1", "plain seed2"]
    assert lines(output, "zeroed.txt") == zeroed
    train(suite, jobs=2)
    assert lines(output, "zeroed.txt") == zeroed and len(lines(output, "started.txt")) == 8


def test_runs_of_an_earlier_version_get_their_controls(train, read, content, output):
    """Whose run.json does not know the key, and which nobody trains again."""
    content |= {"seeds": [1], "controls": []}
    suite = read()
    train(suite, jobs=2)
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
    record = record_of(suite, train(suite, jobs=2))
    assert lines(output, "started.txt") == [
        "lambda 1", "lambda 1 without", "plain 1", "plain 1 without",
    ]  # fmt: skip
    assert "Not finished" not in results_markdown(record)
    assert record["rows"][0]["box_ap_zeroed"]["values"] == [30.75]


def test_a_failed_evaluation_loses_no_run(read, train, content, output):
    content |= {"controls": ["zeroed"]}
    suite = read()
    (output / "break_zeroed").write_text("lambda")
    states = train(suite, jobs=2)
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

    line = r"is not written because 2 of 4 runs .*: lambda seed 1, with res4 and res5 zeroed: error"
    with pytest.raises(InputError, match=line):
        write_record(str(output / "record.json"), record)
    assert not (output / "record.json").exists()
    (output / "break_zeroed").unlink()
    execute_states = train(suite, jobs=2)
    assert "box_ap_zeroed" in record_of(suite, execute_states)["rows"][1]
    assert len(lines(output, "started.txt")) == 4 and len(lines(output, "zeroed.txt")) == 6


def test_a_broken_result_is_evaluated_anew(read, train, content, output):
    content |= {"controls": ["zeroed"], "seeds": [1]}
    suite = read()
    train(suite, jobs=2)
    path = Path(suite.runs[0].folder, "zeroed_res4_res5", "inference", "metrics.json")
    path.write_text("{")
    assert zeroed_missing(suite.runs[0]) == "not evaluated yet"
    train(suite, jobs=2)
    assert zeroed_missing(suite.runs[0]) is None
    assert lines(output, "zeroed.txt") == ["lambda seed1", "plain seed1", "plain seed1"]


def test_weights_that_are_gone_are_a_line(read, train, content, output):
    content |= {"controls": ["zeroed"], "seeds": [1]}
    suite = read()
    (output / "break_zeroed").write_text("plain lambda")
    train(suite, jobs=2)
    for run in suite.runs:
        os.unlink(Path(run.folder, "model_final.pth"))
    states = train(suite, jobs=2)
    assert len(lines(output, "zeroed.txt")) == 2  # no process for nothing
    reason = f"{suite.runs[0].folder}/model_final.pth is missing"
    assert record_of(suite, states)["runs"][0]["zeroed_missing"] == reason


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_what_is_zeroed_are_the_weights_that_were_judged(read, content, decay):
    content["overrides"]["SOLVER.EMA_DECAY"] = decay
    run = read().runs[0]
    words = zeroed_command(run)
    assert words[words.index("--zeroed") + 1] == "res4,res5"
    assert words[words.index("--config-file") + 1] == f"{run.folder}/config.yaml"
    assert words[words.index("OUTPUT_DIR") + 1] == run.folder
    name = "model_final_ema.pth" if decay else "model_final.pth"
    assert words[-2:] == ["MODEL.WEIGHTS", f"{run.folder}/{name}"]


# -- what is kept ----------------------------------------------------------------------------------


def test_rows_have_the_controls_beside_the_ap(read, train):
    suite = read()
    record = record_of(suite, train(suite, jobs=2))
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


def test_controls_are_of_their_set(read, train, content):
    content |= {"seeds": [1], "sets": {"hard": {}, "easy": {}}}
    suite = read()
    record = record_of(suite, train(suite, jobs=2))
    found = [(r["set"], r["model"], r["box_ap_trained_without"]["mean"]) for r in record["rows"]]
    assert found == [
        ("hard", "plain", 32),
        ("hard", "lambda", 28),
        ("easy", "plain", 42),
        ("easy", "lambda", 38),
    ]


# -- what it costs ---------------------------------------------------------------------------------


def test_the_plan_counts_the_trainings_without_branches(read, train, output):
    suite = read()
    train(suite, jobs=2, only=chosen_runs(suite, ["lambda/seed1", "plain/seed1"]))
    text = plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")
    assert "lambda seed 1 without res4 and res5 (λ-50), new: 20 iterations" in text
    assert "launch lambda/seed1_without" in text and "time unknown" not in text
    assert text.count("  at most ") == 4  # as with the branches, while nothing better is known
    train(suite, jobs=2, only=chosen_runs(suite, ["lambda/seed1_without"]))
    text = plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")
    assert text.count("  at most ") == 2


def test_what_is_measured_without_branches_has_its_own_folder(read, output, monkeypatch):
    suite = read()
    monkeypatch.setattr(planning, "train_command", fake_measured)
    record = measure(suite, str(output), suite.runs, 40)
    assert [row["label"] for row in record["rows"]] == [
        "R-50", "λ-50", "R-50 without res4 and res5", "λ-50 without res4 and res5",
    ]  # fmt: skip
    for folder in ("measured", "measured_without"):
        assert sorted(os.listdir(output / folder)) == ["lambda", "plain"]


def fake_measured(run) -> list[str]:
    line = json.dumps({"iteration": 39, "time": 1.0})
    return ["sh", "-c", f"cd {run.folder} && echo 'SOLVER: {{IMS_PER_BATCH: 8}}' > config.yaml && "
            f"echo '{line}' > metrics.json"]  # fmt: skip
