"""What is kept of a run says which annotations it is of, and does not count for others."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lambda_det.comparison import collect
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.errors import InputError
from lambda_det.io import write_json

pytestmark = pytest.mark.slow


def write_data(folder: Path, objects: int) -> None:
    """A COCO folder with three images in each split."""
    for split in ("train2017", "val2017"):
        images = [{"id": n, "file_name": f"{n}.jpg", "height": 9, "width": 9} for n in range(3)]
        one = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
        found = [one | {"id": n} for n in range(1, objects + 1)]
        content = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "a"}]}
        write_json(content, str(folder / "annotations" / f"instances_{split}.json"))
        (folder / split).mkdir(exist_ok=True)


@pytest.fixture
def content(content: dict) -> dict:
    return content | {"keep": "kept/mine", "seeds": [1]}


@pytest.mark.parametrize("named", ["by the variable", "by the suite"])
def test_what_is_kept_does_not_count_for_other_data(
    read, train, content, output, monkeypatch, named
):
    folder = output / "data"
    if named == "by the variable":
        content["overrides"] = {**content["overrides"], "DATASETS.COCO_FOLDER": ""}
        monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(folder))
    write_data(folder, 5)
    suite = read()
    states = train(suite)
    run = suite.runs[0]
    kept = json.loads(Path(run.kept).read_text())
    assert [*kept["data"]] == ["coco_2017_train", "coco_2017_val"]
    facts = kept["data"]["coco_2017_val"]
    assert (facts["images"], facts["objects"], len(facts["sha256"])) == (3, 5, 64)
    assert collect(suite, states, lambda cfg: {})["data"] == kept["data"]
    shutil.rmtree(output / "runs")
    assert state_of(run) == FINISHED

    write_data(folder, 7)
    with pytest.raises(InputError) as error:
        state_of(run)
    path = os.path.join(folder, "annotations", "instances_train2017.json")
    assert str(error.value) == (
        f"{run.kept} contains a run with other data: its coco_2017_train had 3 images and 5 "
        f"objects, {path} has 3 and 7 and other content; give these data a set of their own in the "
        "suite, or remove that file"
    )
    kept.pop("data")  # as an earlier version wrote it
    write_json(kept, suite.runs[1].kept)
    write_json(kept | {"key": suite.runs[1].key, "settings": suite.runs[1].settings,
                       "changed": []}, suite.runs[1].kept)  # fmt: skip
    assert state_of(suite.runs[1]) == FINISHED
    shutil.rmtree(folder)
    assert state_of(run) == FINISHED, "nothing to compare it with"


def test_a_command_runs_after_each_run(read, train, content, output, caplog):
    """Its failure is logged; the run has finished, and its settings are those without it."""
    content["finish"] = "echo {suite} {run} >> {output}/finish.txt; test {run} != lambda/seed1"
    suite = read()
    assert set(train(suite, jobs=1).values()) == {FINISHED}
    lines = (output / "finish.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["plain/seed1", "lambda/seed1"]
    assert all(Path(line.split()[0]).is_file() for line in lines)
    assert "lambda seed 1, finish: " in caplog.text and "plain seed 1, finish" not in caplog.text
    content.pop("finish")
    assert {state_of(run) for run in read().runs} == {FINISHED}
