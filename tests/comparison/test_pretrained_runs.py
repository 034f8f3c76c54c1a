"""Runs that wait for a pretraining of their own."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
from pathlib import Path

import psutil
import pytest

from lambda_det.comparison import read_suite
from lambda_det.comparison.planning import plan_text
from lambda_det.comparison.run_files import FAILED, FINISHED, STARTED, state_of
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow

# What it is given goes beside the weights; a file "deny" beside the suite's folder makes it fail.
PRETRAINING = """
import json, pathlib, sys
config, weights, *words = sys.argv[1:]
root = next(p.parent for p in pathlib.Path(weights).parents if p.name == "runs")
with open(root / "pretrainings.txt", "a") as file:
    print(json.dumps([pathlib.Path(config).name, *words]), file=file)
pathlib.Path(weights).write_text("half")
if (root / "deny").is_file():
    sys.exit("error: no such pictures")
pathlib.Path(weights).write_text("whole")
"""


@pytest.fixture
def content(content: dict, output: Path) -> dict:
    script = output.parent / "pretraining of mine.py"
    script.write_text(PRETRAINING)
    command = f"{shlex.quote(str(script))} {{config}} {{weights}} {{words}}"
    return content | {"seeds": [1], "pretrain": "{python} " + command}


def reason(run) -> str:
    return json.loads(Path(run.folder, "failed.json").read_text())["reason"]


def pretrainings(output: Path) -> list[list[str]]:
    return [json.loads(line) for line in (output / "pretrainings.txt").read_text().splitlines()]


def test_a_run_starts_from_its_own_weights(read, train, content, output):
    content["controls"] = ["trained_without"]
    suite = read()
    states = train(suite)
    assert set(states.values()) == {FINISHED} and len(states) == 4
    by_key = {run.key: run for run in suite.runs}
    weights = output / "runs" / "lambda" / "seed1_without" / "pretrained.pth"
    run = by_key["lambda/seed1_without"]
    assert run.weights == str(weights) and weights.read_text() == "whole"
    assert run.arguments[run.arguments.index("MODEL.WEIGHTS") + 1] == str(weights)
    given = pretrainings(output)
    assert len(given) == 4 and sorted(words[0] for words in given) == [given[0][0]] * 4
    own = next(w for w in given if "MODEL.LAMBDA_RESNET.IDLE_STAGES" in w and "resnet" not in w)
    assert own[-2:] == ["SEED", "1"] and "MODEL.WEIGHTS" not in own
    assert own[own.index("DATASETS.COCO_FOLDER") + 1] == str(output / "data")
    # Nothing is made again, and the weights themselves may be gone when a run has finished.
    weights.unlink()
    train(suite)
    assert len(pretrainings(output)) == 4


def test_a_pretraining_that_fails_fails_its_run(read, train, output, caplog):
    (output / "deny").touch()
    suite = read()
    states = train(suite)
    assert set(states.values()) == {FAILED} and not (output / "started.txt").exists()
    run = suite.runs[0]
    assert reason(run) == "pretraining: error: no such pictures"
    assert not Path(run.weights).exists()
    (output / "deny").unlink()
    states = train(suite)
    assert set(states.values()) == {FINISHED} and Path(run.weights).read_text() == "whole"
    assert len(pretrainings(output)) == 4


def test_one_that_leaves_nothing_is_told(read, train, content):
    content["pretrain"] = "true {weights}"
    suite = read()
    assert set(train(suite).values()) == {FAILED}
    part = suite.runs[0].weights.replace(".pth", ".part.pth")
    assert reason(suite.runs[0]) == f"pretraining: no {part}"
    # What an earlier attempt has left half-written is not taken for it.
    Path(part).write_text("half")
    assert set(train(suite).values()) == {FAILED}
    assert not Path(suite.runs[0].weights).exists()


def test_another_pretraining_is_another_run(read, train, content, output):
    train(read())
    content["pretrain"] += " --longer"
    suite = read()
    with pytest.raises(InputError, match=r"contains a run with pretrain .*choose another --output"):
        state_of(suite.runs[0])


def test_the_plan_names_it(read, output):
    suite = read()
    text = plan_text(suite, str(output), suite.runs, lambda run: run.key)
    assert "# pretrains first: " in text and "pretraining of mine.py" in text
    assert f"{output}/runs/plain/seed1/pretrained.part.pth" in text
    assert "without evaluations and pretrainings" not in text  # no time is known: no sum


def test_a_signal_ends_the_pretraining_too(read, train, content, output):
    """And the run is taken up again, not failed."""
    content["pretrain"] = (
        "touch {weights}; trap 'exit 0' TERM; sleep 100 & echo $! > {output}/begun; wait"
    )
    suite = read()

    class Signal(Exception):
        pass

    def raise_it(number, frame):
        raise Signal

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(Signal):
            train(suite)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert state_of(suite.runs[0]) == STARTED and not Path(suite.runs[0].weights).exists()
    with contextlib.suppress(psutil.NoSuchProcess):  # else nobody has claimed it yet
        left = psutil.Process(int((output / "begun").read_text()))
        assert left.status() == psutil.STATUS_ZOMBIE


def test_a_run_that_is_begun_again_keeps_its_weights(read, train, output):
    (output / "break").write_text("plain lambda")
    suite = read()
    assert set(train(suite).values()) == {FAILED}
    (output / "break").unlink()
    assert set(train(suite).values()) == {FINISHED}
    assert len(pretrainings(output)) == 2


def test_a_suite_is_found_by_a_relative_path(train, content, write_suite, output, monkeypatch):
    """The command runs elsewhere, in the root of the checkout."""
    path = Path(write_suite(content))
    monkeypatch.chdir(path.parent)
    (path.parent / "mine.yaml").write_text("_BASE_: " + content["models"]["plain"]["config"])
    content["models"]["plain"]["config"] = "mine.yaml"
    suite = read_suite(Path(write_suite(content)).name, str(output))
    assert f" {path.parent}/mine.yaml " in suite.runs[0].pretrain
    assert set(train(suite).values()) == {FINISHED}


def test_weights_beside_a_pretraining_are_refused(read, content):
    content["overrides"]["MODEL.WEIGHTS"] = "mine.pth"
    with pytest.raises(InputError, match=r"MODEL.WEIGHTS 'mine.pth' and pretrain both"):
        read()
