"""The "why" study: its plan, the results of runs, and the skipping of finished runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lambda_det.errors import InputError
from studies.evidence import why
from studies.evidence.networks import NETWORKS
from studies.evidence.scenes import Layout, draw_scene
from studies.evidence.why import do, do_all, main
from studies.evidence.why_plan import PARTS, Run, plan, stored

TINY = Run("reach", "rows", Layout(2, 96), "res4_only", 1, 2, images=2, validation=4)


def fake(run: Run) -> dict:
    return {**why.asdict(run), "base_lr": 0.05, "kind_accuracy_percent": 70.0, "train_cpu_s": 1.0}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that are asked for; nothing is trained."""
    runs: list[Run] = []

    def note(run: Run) -> dict:
        runs.append(run)
        return fake(run)

    monkeypatch.setattr(why, "do", note)
    return runs


def test_the_plan_has_everything_with_one_seed_before_anything_with_the_next():
    runs = plan()
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    asked = 3 * (3 * 3 + 3 * 2)
    assert len({run.path for run in runs}) == len(runs) == 16 * 3 + asked + 5 * 2 * 2 + 3 * 2 * 2
    first = {run.part for run in runs if run.seed == 1}
    assert first == set(PARTS) and {run.network for run in plan(["reach"])} == set(NETWORKS)
    assert {run.iterations for run in runs if run.set == "rows"} == {250}
    assert {run.set: run.rows_first for run in runs if run.rows_first} == {
        "offsets": 150, "matches": 150
    }  # fmt: skip
    sides = [run.layout.side for run in plan(["rows"], ["lambda"], [1])]
    assert sides == [160, 160, 160]


def test_a_part_of_the_plan():
    runs = plan(["distance"], ["lambda"], [2], iterations=3)
    assert [run.path for run in runs] == [
        f"distance/rows_distance{pixels}/lambda_seed2.json" for pixels in (28, 40, 52, 64, 76)
    ]
    assert {run.iterations for run in runs} == {3}
    with pytest.raises(InputError, match="no run of the plan"):
        plan(["distance"], ["zero_init"])
    with pytest.raises(InputError, match="--iterations 0: at least 1"):
        plan(iterations=0)


def test_a_run_is_measured_and_is_the_same_again():
    result = do(TINY)
    assert len(result["curve"]) == 1 and 0 <= result["kind_accuracy_percent"] <= 100
    assert result["kind_accuracy_percent"] % 12.5 == 0, "of 4 scenes of 2 objects"
    assert result["moved"].keys() == {"res4.1"} and 0 < result["moved"]["res4.1"] < 0.1
    assert result["multiply_adds"] > 1e8 and result["train_cpu_s"] > 0
    again = do(TINY)
    for name in set(result) - {"train_cpu_s"}:
        assert result[name] == again[name], name


def test_networks_with_one_seed_see_the_same_scenes_and_all_runs_the_same_validation(monkeypatch):
    seen: list[list] = []

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fpn = torch.nn.Module()
            self.fpn.bottom_up = torch.nn.Module()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            self.shown: list = []
            seen.append(self.shown)

        def forward(self, images, boxes):
            self.shown.append((self.training, images.sum((1, 2, 3)).tolist(), images.shape))
            return self.weight.expand(sum(map(len, boxes)), 2)

    monkeypatch.setattr(why, "build_network", lambda _name: Watch())
    monkeypatch.setattr(why, "multiply_adds", lambda *_: 0)
    for run in (TINY, replace(TINY, network="se"), replace(TINY, seed=2)):
        do(replace(run, iterations=30))
    assert seen[0] == seen[1]
    training, validation = (
        [[s for s in shown if s[0] == mode] for shown in seen] for mode in (1, 0)
    )
    assert len(training[0]) == 30 and len(validation[0]) == 1
    assert validation[0] == validation[2]
    sums = [s for shown in training[0] + training[2] + validation[0] for s in shown[1]]
    assert len(set(sums)) == len(sums) == 2 * 60 + 4, "no scene is shown twice"
    assert training[0][0][2] == (2, 3, 96, 96)


def test_a_run_may_begin_with_scenes_of_rows_and_is_judged_without_them(monkeypatch):
    drawn = []

    def note(stream, name, layout):
        drawn.append(name)
        return draw_scene(stream, name, layout)

    monkeypatch.setattr(why, "draw_scene", note)
    assert do(replace(TINY, set="offsets", iterations=3, rows_first=2))["rows_first"] == 2
    assert drawn == 2 * 2 * ["rows"] + 2 * ["offsets"] + 4 * ["offsets"]


def test_a_run_leaves_one_json_and_is_not_done_again(tmp_path, capsys, monkeypatch):
    store = str(tmp_path / "store")
    do_all([TINY], store)
    (path,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert path.relative_to(store).as_posix() == "reach/rows_rows2_side96/res4_only_seed1.json"
    found = json.loads(path.read_text())
    assert found["schema"] == 1 and "commit" in found and found["hardware"]["gpu"] is None
    assert found["layout"] == {"rows": 2, "side": 96, "distance": None}
    assert found["versions"]["torch"] and found["date"] and "rows" not in found
    assert found["last_norm"]["res5"] == pytest.approx(1, abs=0.2) and found["base_lr"] == 0.05
    monkeypatch.setattr(why, "do", lambda _run: pytest.fail("is done again"))
    do_all([TINY], store)
    assert "1 runs, 1 of them are done already" in capsys.readouterr().out


def test_a_run_with_other_settings_is_refused_before_any_is_done(done, tmp_path):
    store = str(tmp_path)
    do_all([TINY], store)
    other = replace(TINY, iterations=3)
    with pytest.raises(
        InputError, match=r"res4_only_seed1\.json: is of a run with iterations 2, not 3"
    ):
        do_all([replace(TINY, seed=2), other], store)
    assert done == [TINY]
    path = tmp_path / TINY.path
    path.write_text(path.read_text().replace("0.05", "0.1"))
    with pytest.raises(InputError, match=r"base_lr 0\.1, not 0\.05"):
        stored(TINY, store)
    path.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        stored(TINY, store)


def test_what_was_done_before_an_interruption_is_kept(tmp_path, monkeypatch):
    def interrupted(run: Run) -> dict:
        if run.seed == 2:
            raise KeyboardInterrupt
        return fake(run)

    monkeypatch.setattr(why, "do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do_all([TINY, replace(TINY, seed=2), replace(TINY, seed=3)], str(tmp_path))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["res4_only_seed1.json"]


def test_command_line(done, tmp_path, capsys):
    words = ["--part", "ask", "--only", "depthwise", "--seeds", "3", "--store", str(tmp_path)]
    assert main([*words, "--plan"]) == 0 and not done
    assert capsys.readouterr().out.split() == [
        f"ask/{name}/depthwise_seed3.json"
        for name in ("sides_distance72", "offsets_distance40", "matches_distance40")
    ]
    assert main(words) == 0
    assert [run.set for run in done] == ["sides", "offsets", "matches"]
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    assert capsys.readouterr().out.count(" done\n") == 3


@pytest.mark.parametrize(
    "words, line",
    [
        (["--iterations", "2"], "error: --iterations: is for a trial; name another --store"),
        (["--jobs", "0"], "error: --jobs 0: at least 1 is needed"),
        (
            ["--seeds", "9"],
            "error: --part, --only and --seeds: no run of the plan has all of these",
        ),
    ],
)
def test_a_bad_value_is_one_line(words, line, done, capsys, tmp_path):
    store = [] if "--iterations" in words else ["--store", str(tmp_path)]
    assert main([*words, *store]) == 2
    assert capsys.readouterr().err.strip() == line and not done
