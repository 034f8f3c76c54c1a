"""What is noted of a run: its code, its device, its GPUs; and what others do in the same folder."""

from __future__ import annotations

import pytest
from suite_helpers import fake_training

from lambda_det.comparison import collect, comparison_tables
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.suite import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def content(content: dict) -> dict:
    return content | {"seeds": [1]}


def test_what_others_have_finished_meanwhile_counts(read, train):
    """Nodes of a cluster, one run each: the last one's tables have the runs of all."""
    suite = read()
    plain, lambda_ = suite.runs

    def command(run: Run) -> list[str]:
        if run == plain:  # what another node does while this one trains
            train(suite, only=[lambda_])
        return fake_training(run)

    assert train(suite, command=command, only=[plain]) == {plain: FINISHED, lambda_: FINISHED}


def test_record_of_a_run_is_of_its_start_and_its_device(read, train, content, monkeypatch):
    content["sets"] = {"slow": {}, "fast": {"overrides": {"MODEL.DEVICE": "cuda"}}}
    del content["models"]["lambda"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    suite = read()
    commits = []
    monkeypatch.setattr("lambda_det.records._commit", lambda: f"then {len(commits)}")

    def command(run: Run) -> list[str]:
        commits.append("another, while it trains")
        return fake_training(run)

    record = collect(suite, train(suite, command=command), lambda cfg: {}, command="python x")
    assert [(o["commit"], o["hardware"]["gpu"]) for o in record["origins"]] == [
        ("then 0", None), ("then 1", "a GPU"),
    ]  # fmt: skip
    assert "Times and memory are of different hardware" in comparison_tables(record)


def test_differences_name_no_path_of_this_machine(read, content):
    content["models"]["lambda"]["overrides"] = {"MODEL.WEIGHTS": "{output}/x.pth"}
    suite = read()
    found = collect(suite, dict.fromkeys(suite.runs, "new"))["differences"]
    assert found["MODEL.WEIGHTS"] == {"plain": "", "lambda": "{output}/x.pth"}
    assert "OUTPUT_DIR" not in found


def test_gpus_are_those_that_trained(read, train):
    train(read())
    suite = read(gpus_per_run=8)
    rows = collect(suite, {run: state_of(run) for run in suite.runs}, lambda cfg: {})["rows"]
    assert [row["gpus"] for row in rows] == [1, 1]
