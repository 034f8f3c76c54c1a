"""The record and the figure of the "why" study, from any subset of its runs."""

from __future__ import annotations

import json
import math
import re

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lambda_det.errors import InputError
from studies.evidence import why, why_report
from studies.evidence.why_figure import _LINE, drawing, heights
from studies.evidence.why_plan import PARTS, Run, plan
from studies.evidence.why_report import collect, half_radius, record_of
from studies.evidence.why_table import why_tables
from studies.tables import rows_table

ACCURACY = {"lambda": (100.0, 98.0, 99.0), "resnet": (50.0, 54.0, 49.0)}


def result(run: Run) -> dict:
    points = math.ceil(run.iterations / 25)
    final = ACCURACY.get(run.network, (60.0, 62.0, 64.0))[run.seed - 1]
    return {
        **why.asdict(run), "base_lr": 0.05, "kind_accuracy_percent": final, "train_cpu_s": 10.0,
        "curve": np.linspace(50, final, points).tolist(), "parameters": 7, "multiply_adds": 9,
        "moved": {"res4.1": 0.25 * run.seed} if run.network == "lambda" else {},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why, "do", result)
    monkeypatch.setattr(why_report, "half_radius", lambda _network: 40.25)


def test_a_row_over_the_seeds_and_the_lead_of_lambda(tmp_path):
    runs = plan(["reach"], ["lambda", "resnet", "se"])
    why.do_all([run for run in runs if (run.network, run.seed) != ("se", 2)], str(tmp_path))
    record = record_of(collect(runs, str(tmp_path)), len(runs))
    rows = {row["network"]: row for row in record["rows"]}
    assert list(rows) == ["resnet", "se", "lambda"] and record["seeds"] == [1, 2, 3]
    assert record["runs"]["done"] == 8 and record["runs"]["missing"] == 1
    resnet = rows["resnet"]
    assert resnet["kind_accuracy_percent"]["values"] == [50, 54, 49]
    half = 4.3027 * np.std([50, 54, 49], ddof=1) / math.sqrt(3)
    assert resnet["kind_accuracy_percent"]["low"] == pytest.approx(51 - half, abs=1e-3)
    assert resnet["kind_accuracy_percent"]["high"] == pytest.approx(51 + half, abs=1e-3)
    assert resnet["lambda_leads_by_percent"]["values"] == [50, 44, 50]
    assert resnet["half_radius_px"] == pytest.approx(40.2, abs=0.1) and resnet["parameters"] == 7
    assert rows["se"]["seeds"] == [1, 3], "of a run that is missing nothing is made up"
    assert rows["se"]["lambda_leads_by_percent"]["values"] == [40, 35]
    # From 50 to 100, 98 and 99 % in ten points: the ninth and the tenth are the first above 90.
    assert rows["lambda"]["iterations_to_90_percent"] == [225, 225, 225]
    assert resnet["iterations_to_90_percent"] == [None] * 3
    assert rows["lambda"]["moved"] == {"res4.1": 0.5} and "moved" not in resnet
    assert "lambda_leads_by_percent" not in rows["lambda"]
    assert record["hardware"]["gpu"] is None and len(record["runs"]["commits"]) == 1
    json.dumps(record, allow_nan=False)
    assert "51.00 ± 2.65" in rows_table(record)
    text = why_tables(json.loads(json.dumps(record)))
    assert "**The colour of the marker in the own row**" in text and "distance" not in text
    assert (
        "| rows | resnet | 3 | 51.0 (" in text
        and "| +48.0 [+39.4, +56.6] | –, –, – | 0.0 |" in text
    )
    line = r"\| rows \| lambda \| 3 \| 99.0 \([\d., ]+\) \|  \| 225, 225, 225 \| 0.0 \| 0.00 \|"
    assert re.search(line + r" 50.0–50.0 \|", text)
    assert "1 of 9 planned runs are missing." in text


def test_an_empty_store_gives_no_record(tmp_path):
    with pytest.raises(InputError, match="has none of 20 planned runs"):
        collect(plan(["distance"]), str(tmp_path))


def test_the_command_writes_record_and_figure_of_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(why, "PROJECT", tmp_path)
    (tmp_path / "docs").mkdir()
    store = str(tmp_path / "store")
    done = plan(seeds=[1])
    why.do_all(done, store)
    capsys.readouterr()
    assert why.main(["--record", "--store", store, "--part", "reach"]) == 0
    assert f"{len(done)} of {len(plan())} runs" in capsys.readouterr().out
    record = json.loads((tmp_path / "results" / "row_mates_why.json").read_text())
    assert {row["part"] for row in record["rows"]} == set(PARTS), "a record is of all of the plan"
    assert record["runs"]["missing"] == len(plan()) - len(done)
    image = cv2.imread(str(tmp_path / "docs" / "evidence.png"))
    assert image.shape[1] == 11 * 160


def test_a_trial_is_not_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(why, "PROJECT", tmp_path)
    store = str(tmp_path / "store")
    why.do_all(plan(["reach"], ["se"], [1], iterations=2), store)
    assert why.main(["--record", "--store", store]) == 2
    assert "with iterations 2, not 250" in capsys.readouterr().err
    assert not (tmp_path / "results").exists() and not (tmp_path / "docs").exists()


def test_lines_are_the_means_over_the_seeds(tmp_path):
    found = {run: result(run) for run in plan()}
    figure = Figure()
    drawing(found)(figure)
    panels = {axes.get_title(loc="left").partition(":")[0]: axes for axes in figure.axes}
    assert len(figure.axes) == 6 and set(panels) == {"rows", "sides", "offsets", "matches"}
    sides = panels["sides"]
    lines = [line for line in sides.get_lines() if len(line.get_xdata()) == 16]
    assert len(lines) == len(sides.texts) == 6
    (subject,) = [line for line in lines if line.get_color() == _LINE["lambda"][0]]
    assert subject.get_ydata()[-1] == pytest.approx(99) and subject.get_xdata()[0] == 12.5
    assert len(sides.collections) == 6, "a band of each"
    last = figure.axes[2]
    distances = [line for line in last.get_lines() if line.get_marker() == "o"]
    assert len(distances) == 2 and [*distances[0].get_xdata()] == [28, 40, 52, 64, 76]


@pytest.mark.parametrize("seed", range(20))
def test_names_stand_apart_in_order_and_inside(seed):
    rng = np.random.default_rng(seed)
    values = {str(i): v for i, v in enumerate(rng.choice([50, 60, 99.5], 8) + rng.normal(0, 1, 8))}
    found = heights(values, 4, 46, 99)
    order = sorted(values, key=lambda name: values[name])
    places = [found[name] for name in order]
    assert np.diff(places).min() > 4 - 1e-9 and min(places) >= 46 and max(places) <= 99 + 1e-9


def test_names_with_room_stand_at_their_values():
    assert heights({"a": 80, "b": 60, "c": 70}, 4, 46, 99) == {"a": 80, "b": 60, "c": 70}
    assert heights({"a": 70, "b": 70}, 4, 46, 99) == {"a": 68, "b": 72}


def test_half_radius_is_that_of_a_field_of_gradients(monkeypatch):
    """Of a level that is a mean over 8 x 8 pixels: half of them lie within about 3.2 pixels."""

    class Mean(torch.nn.Module):
        def forward(self, images):
            means = torch.nn.functional.avg_pool2d(images, 8)
            return {"p2": torch.nn.functional.interpolate(means, scale_factor=1.0)}

    net = torch.nn.Module()
    net.fpn = Mean()
    monkeypatch.setattr(why_report, "build_network", lambda _name: net)
    assert half_radius("lambda") == pytest.approx(8 / math.sqrt(2 * math.pi), abs=0.5)
