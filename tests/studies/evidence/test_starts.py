"""The gain of pretrained weights is paired by seed, between runs of one recipe."""

from __future__ import annotations

import json

import pytest

from lambda_det.errors import InputError
from lambda_det.io import write_json
from lambda_det.records import make_record
from studies.evidence import starts
from studies.evidence.starts import rows_of, starts_table

SAME = {"iterations": 400, "images_per_iteration": 8, "base_lr": 0.05, "train_size": "192×192"}
SAME |= {"depth": 26, "variant": "se", "model": "se", "label": "SE-26"}


def record(suite: str, box_aps: dict[int, float], **changed: object) -> dict:
    run = {"model": "se", "state": "finished"}
    runs = [{**run, "seed": seed, "box_ap": ap} for seed, ap in box_aps.items()]
    runs += [{**run, "seed": 1, "box_ap": 1.0, "without": ["res4", "res5"]}]
    runs += [{**run, "seed": 4, "state": "failed"}]
    made = make_record("python x.py", [SAME | changed], seeds=[1, 2, 3])
    return made | {"suite": suite, "runs": runs}


def test_the_difference_is_of_equal_seeds():
    rows = rows_of(record("a", {1: 30, 2: 31, 3: 35}), record("b", {3: 37, 1: 33, 2: 35}))
    assert len(rows) == 1 and rows[0]["label"] == "SE-26" and "mask_ap_gain" not in rows[0]
    gain = rows[0]["box_ap_gain"]
    assert gain["mean"] == 3 and sorted(gain["values"]) == [2, 3, 4]
    assert gain["low"] == pytest.approx(3 - 2.484, abs=0.01)
    assert rows[0]["box_ap_scratch"]["values"] == [30, 31, 35]
    table = starts_table(make_record("python y.py", rows, seeds=[1, 2, 3]))
    assert "| SE-26 | 32.0 ± 2.6 | 35.0 ± 2.0 | +3.0 [+0.5, +5.5] |" in table
    assert "of 3 seeds" in table and "`python y.py`" in table


def test_other_recipes_are_no_pair():
    with pytest.raises(InputError, match="model se: iterations is 400 in a and 500 in b"):
        rows_of(record("a", {1: 30}), record("b", {1: 30}, iterations=500))
    with pytest.raises(InputError, match="a and b have no model in common"):
        rows_of(record("a", {1: 30}), record("b", {1: 30}, model="lambda"))


def test_other_data_and_other_settings_are_no_pair():
    data = {"coco_2017_val": {"sha256": "a", "images": 3, "objects": 4}}
    other = {"coco_2017_val": {"sha256": "b", "images": 5, "objects": 4}}
    with pytest.raises(InputError, match="different data: coco_2017_val with 3 images and coco_"):
        rows_of(record("a", {1: 30}) | {"data": data}, record("b", {1: 30}) | {"data": other})
    for key, before, after in (
        ("counted_at", "288×288", "448×448"),
        ("set_label", "nuclei", "mine"),
        ("detections_per_image", 400, None),
        ("speed_settings", {"INPUT.LSJ.SCALE": [1, 2]}, {"INPUT.LSJ.SCALE": [1, 3]}),
    ):
        changed = {} if after is None else {key: after}
        with pytest.raises(InputError, match="the recipes must be the same") as error:
            rows_of(record("a", {1: 30}, **{key: before}), record("b", {1: 30}, **changed))
        assert ("INPUT.LSJ.SCALE is [1, 2]" if "speed" in key else key) in str(error.value)
    # What only one of the records knows is not compared.
    assert rows_of(record("a", {1: 30}, counted_at="288×288") | {"data": data}, record("b", {1: 3}))


def test_records_of_another_kind_and_of_several_sets_are_refused():
    good = record("a", {1: 30})
    with pytest.raises(InputError, match="a has the sets low, high; the starts of one set"):
        rows_of(good | {"sets": {"low": "low", "high": "high"}}, good)
    for other in ({}, good | {"runs": [{}]}, {k: v for k, v in good.items() if k != "runs"}, []):
        with pytest.raises(InputError, match="is of no comparison"):
            rows_of(good, other)


def test_the_command_writes_a_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starts, "results_folder", lambda: tmp_path)
    for name, ap in (("a", 30.0), ("b", 32.0)):
        write_json(record(name, {1: ap, 2: ap + 1, 3: ap + 2}), str(tmp_path / f"{name}.json"))
    assert starts.main(["a", "b"]) == 0 and not (tmp_path / "a_starts.json").exists()
    assert starts.main(["a", "b", "--record"]) == 0
    made = json.loads((tmp_path / "a_starts.json").read_text())
    assert made["rows"][0]["box_ap_gain"]["mean"] == 2 and made["seeds"] == [1, 2, 3]
    assert made["command"] == "python -m studies.evidence.starts a b --record"
    assert "+2.0 [+2.0, +2.0]" in capsys.readouterr().out
    assert starts.main(["a", "gone"]) == 2
    assert "gone.json" in capsys.readouterr().err
