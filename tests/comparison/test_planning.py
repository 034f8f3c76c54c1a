"""Plans: what is to be launched, and hours from measured times."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.comparison import collect, comparison_tables, planning, read_suite
from lambda_det.comparison.planning import measure, plan_text
from lambda_det.comparison.suite import Run
from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.io import write_json

SUITES = sorted((Path(__file__).resolve().parents[2] / "configs" / "suites").glob("*.yaml"))

# Writes what a training writes that is timed; the batch is in its arguments.
TIMED = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(words["OUTPUT_DIR"])
batch = int(words["SOLVER.IMS_PER_BATCH"])
(folder / "config.yaml").write_text("SOLVER: {IMS_PER_BATCH: %d}" % batch)
slow = 2 if words.get("MODEL.LAMBDA_RESNET.VARIANT") == "resnet" else 4
lines = [{"iteration": i, "time": slow * batch} for i in (19, 39)]
(folder / "metrics.json").write_text("\\n".join(map(json.dumps, lines)))
(folder / "words.json").write_text(json.dumps(words))
"""


def plan(suite, output) -> str:
    return plan_text(suite, str(output), suite.runs, lambda run: f"launch {run.key}")


def test_without_times_it_says_how_to_get_them(read, content, output):
    content["seeds"] = [1]
    text = plan(read(), output)
    assert text.count("time unknown\n") == 2 and "--measure" in text and "together" not in text
    assert "plain seed 1 (R-50), new: 20 iterations of 8 images (short side 160" in text
    assert ") on the CPU\n" in text and "GPU" not in text.partition("\n")[0]
    assert "\n  launch lambda/seed1\n  # trains: python tools/train_net.py --config-file" in text


def test_what_is_timed_finds_its_data(read, content, output, monkeypatch):
    content |= {"seeds": [1], "prepare": ["mkdir {output}/data && echo x > {output}/data/x"]}
    look = f"import os; assert os.path.isfile({str(output / 'data' / 'x')!r}); {TIMED.strip()}"
    command = lambda run: [sys.executable, "-c", look, *run.arguments]  # noqa: E731
    monkeypatch.setattr(planning, "train_command", command)
    suite = read()
    measure(suite, str(output), suite.runs, 40)


def test_measured_times_become_hours(read, content, output, monkeypatch):
    content |= {"seeds": [1, 2], "gpus_per_run": 4}
    content["overrides"]["SOLVER.MAX_ITER"] = 900
    suite = read()

    def command(run: Run) -> list[str]:
        words = run.arguments[2:]  # without --config-file
        assert "--num-gpus" not in words
        return [sys.executable, "-c", TIMED, *words]

    monkeypatch.setattr(planning, "train_command", command)
    record = measure(suite, str(output), suite.runs, 40)
    assert [row["train_ms_per_image"] for row in record["rows"]] == [2000, 4000]
    assert {row["images_per_iteration"] for row in record["rows"]} == {2}  # of 8 on 4 GPUs
    words = json.loads((output / "measured" / "plain" / "words.json").read_text())
    assert words["SOLVER.MAX_ITER"] == "40" and words["DATASETS.TEST"] == "()"
    text = plan(suite, output)
    # 900 iterations of 8 images of 2 s: 4 hours, and twice that, for two seeds each
    assert "  4 hours: 2000.0 ms per image on 1 x " in text and "\n  8 hours:" in text
    assert "together 24 hours" in text and "time unknown" not in text

    times = output.parent / "times.json"
    (output / "throughput.json").rename(times)
    content["throughput"] = str(times)
    assert "together 24 hours" in plan(read(), output)
    content["overrides"]["INPUT.MIN_SIZE_TRAIN"] = "(64,)"  # what was measured is of no use
    assert "together" not in plan(read(), output)
    with pytest.raises(InputError, match="--measure 20: at least 40"):
        measure(suite, str(output), suite.runs, 20)
    fail = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    monkeypatch.setattr(planning, "train_command", lambda run: fail)
    with pytest.raises(InputError, match="--measure: plain: no such thing"):
        measure(suite, str(output), suite.runs, 40)


@pytest.mark.slow
def test_times_of_finished_runs_and_of_a_record(read, train, content, write_suite, output):
    content["seeds"] = [1, 2]
    suite = read()
    states = train(suite, jobs=2, only=suite.runs[:2])
    text = plan(suite, output)
    assert "plain seed 1 (R-50), finished\n" in text and "launch plain/seed1" not in text
    assert "75.0 ms per image on 1 x" in text
    assert "(measured, plain seed 1, 2 runs sharing the machine)" in text
    record = collect(suite, states, lambda cfg: {}, command="python x")
    write_json(record, str(output.parent / "record.json"))
    content["throughput"] = "record.json"
    other = read_suite(write_suite(content), str(output.parent / "other"))
    assert "record.json, 2 runs sharing the machine)" in plan(other, output.parent / "other")
    record["runs"][0]["gpus"] = 8
    (output.parent / "record.json").write_text(json.dumps(record))
    assert "numbers of GPUs" in comparison_tables(record)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_shipped_suites_can_be_planned(path, tmp_path):
    suite = read_suite(str(path), str(tmp_path))
    assert suite.name == path.stem
    text = plan(suite, tmp_path)
    assert all(f"launch {run.key}\n" in text for run in suite.runs)
    assert str(Path(__file__).parents[2]) not in text


def test_rows_of_the_paper_and_its_baselines(project):
    suites = {path.stem: read_suite(str(path), "out") for path in SUITES}
    assert {"paper_coco", "coco_lsj", "coco_3x", "quick_cpu"} <= suites.keys()
    for name, rows in (("paper_coco", 6), ("coco_lsj", 9), ("coco_3x", 9)):
        suite = suites[name]
        whole = [run for run in suite.runs if not run.without]
        assert len(whole) == rows and suite.runs[0].resume and suite.runs[0].gpus == 8
        for (_, model), cfg in suite.configs.items():
            node = cfg.MODEL.LAMBDA_RESNET
            assert model == f"{node.VARIANT}_{node.DEPTH}"
            assert suite.baselines[model] == f"resnet_{node.DEPTH}"
    paper = collect(suites["paper_coco"], dict.fromkeys(suites["paper_coco"].runs, "new"))
    published = [row["published"]["box_ap"] for row in paper["rows"]]
    assert published == [48.2, 48.5, 49.4, 48.9, 49.4, 50.0]
    assert len(suites["quick_cpu"].runs) == 12  # each is trained without the branches, too


def test_the_shipped_pretraining_fills_every_backbone(tmp_path):
    """The network that each run pretrains is the backbone that it trains."""
    keys = pytest.importorskip("lambda_det.pretrain", reason="timm is not installed")
    suite = read_suite("pretrained_shapes_cpu", str(tmp_path))
    seen = set()
    for run in suite.runs:
        words = shlex.split(run.pretrain.partition(" && ")[0])
        config, pairs = words[words.index("--config-file") + 1], words[8:]
        assert words[4:6] == ["--data", f"{tmp_path}/classes"] and pairs[-2] == "OUTPUT_DIR"
        pretrained = load_config(config, pairs, defaults=keys.get_pretrain_cfg())
        trained = suite.config_of(run)
        assert run.seed == pretrained.SEED and not trained.MODEL.WEIGHTS
        first, second = (lambda_resnet_arguments(cfg) for cfg in (pretrained, trained))
        assert {**first, "mask_padding": True} == {**second, "mask_padding": True}
        seen.add(first["variant"])
        assert ImageFormat.from_config(pretrained) == ImageFormat.from_config(trained)
    assert seen == {"resnet", "se", "lambda"}
