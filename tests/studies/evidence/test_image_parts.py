"""AP by kind of image and by size of object, against cases that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_det.comparison.suite import read_suite
from lambda_det.errors import InputError
from lambda_det.io import write_json
from lambda_det.records import make_record
from studies.evidence import image_parts
from studies.evidence.image_parts import keep_parts, noise_floor, parts_of_run, record_of, rows_of
from studies.evidence.parts import ALL, KINDS, SIZES, kind_of, parts_of
from studies.tables import brief_table

SUITE = str(Path(image_parts.__file__).parent / "nuclei.yaml")


def box(number: int, side: int) -> list[int]:
    """A square that does not overlap those of other numbers."""
    return [40 * (number % 6), 40 * (number // 6), side, side]


def write(tmp_path: Path, images: list[tuple[int, int]], sides: list[list[int]], found) -> dict:
    """Annotations of squares, and detections of those for which ``found(image, side)`` is true."""
    annotations, detections = [], []
    for image, of_image in enumerate(sides, start=1):
        for number, side in enumerate(of_image):
            x, y, width, height = box(number, side)
            corners = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            one = {"image_id": image, "category_id": 1, "bbox": box(number, side)}
            one |= {"segmentation": corners}
            extra = {"id": len(annotations) + 1, "iscrowd": 0, "area": side * side}
            annotations.append(one | extra)
            if found(image, side):
                detections.append(one | {"score": 0.9})
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
            for number, (height, width) in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "nucleus"}],
    }
    write_json(content, str(tmp_path / "truth.json"))
    write_json(detections, str(tmp_path / "found.json"))
    return {
        "annotations": str(tmp_path / "truth.json"),
        "predictions": str(tmp_path / "found.json"),
    }


def test_kinds_are_of_the_longer_side():
    sizes = [(256, 256), (260, 347), (256, 320), (360, 360), (520, 696), (1272, 603)]
    kinds = [*KINDS]
    assert [kind_of(*size) for size in sizes] == [kinds[i] for i in (0, 1, 1, 2, 3, 3)]


def test_ap_of_each_kind_and_size(tmp_path):
    """All is found in the image of 256 pixels; of the larger one only what has 20 pixels."""
    images, sides = [(256, 256), (520, 696)], [[10, 20, 30], [10, 10, 20, 30]]
    files = write(tmp_path, images, sides, lambda image, side: image == 1 or side == 20)
    parts = parts_of(**files)
    small, medium, large = SIZES
    expected = {"256×256": (1, 3, 100), "larger": (1, 4, 25), medium: (2, 2, 100)}
    # COCO's precision is taken at 101 recalls: a third and a half of the objects are 34 and 51.
    expected |= {small: (2, 3, 3400 / 101), large: (2, 2, 5100 / 101), ALL: (2, 7, None)}
    for part, (count, objects, ap) in expected.items():
        assert (parts[part]["images"], parts[part]["objects"]) == (count, objects), part
        if ap is not None:
            for task in ("box", "mask"):
                assert parts[part][f"{task}_ap"] == pytest.approx(ap, abs=1), part
    assert parts["360×360"] == {"images": 0, "objects": 0, "box_ap": None, "mask_ap": None}


def test_more_than_a_hundred_objects_count(tmp_path):
    files = write(tmp_path, [(1300, 1300)], [[10] * 150], lambda *_: True)
    assert parts_of(**files)[ALL]["box_ap"] == pytest.approx(66.3, abs=1)
    assert parts_of(**files, max_detections=400)["larger"]["box_ap"] == pytest.approx(100)


def numbers(box_ap: float) -> dict:
    of_part = {"images": 2, "objects": 5, "box_ap": box_ap, "mask_ap": box_ap - 1}
    return {ALL: of_part, "larger": of_part | {"box_ap": box_ap - 10}}


def test_rows_pair_models_and_controls_by_seed(tmp_path):
    suite = read_suite(SUITE, str(tmp_path))
    found = {}
    for run in suite.runs:
        value = {"resnet": 30, "se": 31, "lambda": 33}[run.model] + 2 * run.seed - 5 * run.without
        value += run.model == "lambda" and run.seed == 2 and not run.without
        found[run] = {"whole": numbers(value)}
        if run.zeroed:
            found[run]["zeroed"] = numbers(value - 20)
    rows = rows_of(suite, found)
    assert [row["label"] for row in rows] == ["R-26", "SE-26", "λ-26"] * 2
    assert rows[0]["set_label"] == "all (2 images, 5 objects)"
    row = next(r for r in rows if (r["model"], r["set"]) == ("lambda", "nuclei/larger"))
    assert row["box_ap"]["values"] == [25, 28, 29] and row["finished"] == 3
    assert row["box_ap_zeroed"]["values"] == [5, 8, 9]
    assert row["box_ap_trained_without"]["values"] == [20, 22, 24]
    assert row["box_ap_gain"]["values"] == [3, 4, 3] and row["over"] == "resnet"
    assert row["mask_ap_over_trained_without"]["values"] == [5, 6, 5]
    assert "box_ap_gain" not in rows[0], "the baseline has no gain"
    assert {row["detections_per_image"] for row in rows} == {400}


def test_a_control_alone_and_boxes_alone_have_rows_or_none(tmp_path):
    suite = read_suite(SUITE, str(tmp_path))
    boxes = {ALL: {"images": 2, "objects": 5, "box_ap": 30.0}}
    runs = {run.key: run for run in suite.runs}
    found = {
        runs["nuclei/resnet/seed1"]: {"whole": boxes},
        runs["nuclei/se/seed1_without"]: {"whole": boxes},
    }
    (alone,) = rows_of(suite, {runs["nuclei/lambda/seed1"]: {"whole": boxes}})
    assert alone["over"] is None, "nothing of the baseline is known"
    assert "| λ-26 | 30.0 |" in brief_table(make_record("x", [alone], seeds=[1]), zeroed=True)
    (row,) = rows_of(suite, found)
    assert row["model"] == "resnet" and row["finished"] == 1 and "mask_ap" not in row


def test_sizes_are_those_of_the_set(tmp_path):
    mine = '  mine: {label: mine, overrides: {DATASETS.COCO_FOLDER: ""}}\nmodels:'
    path = suite_of(tmp_path, ("models:", mine))
    suite = read_suite(path, str(tmp_path))
    found = {}
    for run in suite.runs:
        size = {"images": 9, "objects": 99} if run.set == "mine" else {}
        found[run] = {"whole": {ALL: numbers(30)[ALL] | size}}
    labels = {row["set_label"] for row in rows_of(suite, found)}
    assert labels == {"nuclei, all (2 images, 5 objects)", "mine, all (9 images, 99 objects)"}


def test_the_noise_floor_is_of_the_trainings_without_branches(tmp_path):
    suite = read_suite(SUITE, str(tmp_path))
    found = {
        run: {"whole": numbers(30 + run.seed * (run.model == "lambda") + 9 * (not run.without))}
        for run in suite.runs
    }
    line = noise_floor(suite, found)
    assert "λ − SE is +2.0 [−0.5, +4.5] box AP and +2.0 [−0.5, +4.5] mask AP there" in line
    assert noise_floor(suite, {run: of for run, of in found.items() if not run.without}) == ""


@pytest.fixture
def kept_run(tmp_path):
    """A run of which the suite has kept its JSON, with a box AP of 40 and a mask AP of 39."""
    run = read_suite(SUITE, str(tmp_path / "out")).runs[0]
    assert run.zeroed and not run.without
    run = replace(run, kept=str(tmp_path / "kept" / "nuclei" / f"{run.key}.json"))
    row = {"box_ap": 40.0, "mask_ap": 39.0, "box_ap_zeroed": 20.0, "mask_ap_zeroed": 19.0}
    finished = {"record": make_record("python x.py", [], seeds=[1])}
    facts = {"key": run.key, "settings": run.settings, "finished": finished, "row": row}
    write_json(facts | {"losses": {}, "classes": {}, "num_classes": 1}, run.kept)
    return run


def test_parts_outlive_the_folder_of_the_run(kept_run, tmp_path):
    path = tmp_path / "kept" / "nuclei_parts" / f"{kept_run.key}.json"
    write_json({"whole": numbers(40), "zeroed": numbers(20)}, str(path))
    assert parts_of_run(kept_run)["whole"]["larger"]["box_ap"] == 30


def test_parts_of_another_run_are_refused(kept_run, tmp_path):
    path = tmp_path / "kept" / "nuclei_parts" / f"{kept_run.key}.json"
    write_json({"whole": numbers(41), "zeroed": numbers(20)}, str(path))
    with pytest.raises(InputError, match=r"box AP of 40.00, but its parts are of one with 41.00"):
        parts_of_run(kept_run)


def test_parts_are_kept_of_a_run_with_its_folder(kept_run, tmp_path, monkeypatch):
    """What is evaluated are the predictions in the folder, and those with zeroed branches."""
    files = write(tmp_path, [(256, 256)], [[10, 20]], lambda *_: True)
    some = json.loads(Path(files["predictions"]).read_text())
    paths = [
        str(Path(folder) / "inference" / "coco_instances_results.json")
        for folder in (kept_run.folder, kept_run.zeroed_folder)
    ]
    for path, detections in zip(paths, (some, some[:1]), strict=True):
        write_json(detections, path)
    facts = json.loads(Path(kept_run.kept).read_text())
    half = parts_of(files["annotations"], paths[1])
    ap = half[ALL]["box_ap"]
    facts["row"] = {"box_ap": 100, "mask_ap": 100, "box_ap_zeroed": ap, "mask_ap_zeroed": ap}
    write_json(facts, kept_run.kept)
    monkeypatch.setattr(image_parts, "built_config", lambda folder: folder)
    monkeypatch.setattr(image_parts, "validation_set", lambda _: (files["annotations"], ""))
    found = parts_of_run(kept_run)
    kept = tmp_path / "kept" / "nuclei_parts" / f"{kept_run.key}.json"
    assert json.loads(kept.read_text()) == found
    small, medium, _ = SIZES
    aps = [found[name][size]["box_ap"] for name in ("whole", "zeroed") for size in (small, medium)]
    assert aps == pytest.approx([100, 100, 100, 0])


def test_parts_from_before_a_control_are_made_again(kept_run, tmp_path):
    path = tmp_path / "kept" / "nuclei_parts" / f"{kept_run.key}.json"
    write_json({"whole": numbers(40)}, str(path))
    assert parts_of_run(kept_run) is None, "the folder of the run is gone"
    for other in ([], {"rows": []}):
        write_json(other, str(path))
        with pytest.raises(InputError, match="has no parts of a run; remove that file"):
            parts_of_run(kept_run)


def suite_of(tmp_path: Path, *changes: tuple[str, str]) -> str:
    """Path of a suite as that of the nuclei, whose kept runs are below ``tmp_path``."""
    text = Path(SUITE).read_text(encoding="utf-8")
    text = text.replace("config: ", f"config: {Path(SUITE).parent}/")
    for before, after in (("keep: runs/nuclei", f"keep: {tmp_path}/kept/nuclei"), *changes):
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "nuclei.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_run_without_its_folder_does_not_block_the_others(kept_run, tmp_path, capsys):
    suite = read_suite(suite_of(tmp_path), str(tmp_path / "out"))
    facts = json.loads(Path(kept_run.kept).read_text())
    for run in suite.runs[:2]:
        write_json(facts | {"key": run.key, "settings": run.settings}, run.kept)
    parts = tmp_path / "kept" / "nuclei_parts" / f"{suite.runs[0].key}.json"
    write_json({"whole": numbers(40), "zeroed": numbers(20)}, str(parts))
    record = record_of(suite, "python y.py")
    assert [row["model"] for row in record["rows"]] == ["resnet", "resnet"]
    assert record["left_out"] == ["nuclei se seed 1"] and record["finished"] == 1
    assert record["commit"] == facts["finished"]["record"]["commit"]
    said = capsys.readouterr().err
    assert "nuclei se seed 1; to train them again, remove their JSON in" in said
    with pytest.raises(InputError, match="--run nuclei/se/seed1: is no finished run of suite"):
        keep_parts(suite, "nuclei/se/seed1")
    words = ["--suite", suite_of(tmp_path), "--output", str(tmp_path / "out")]
    assert image_parts.main([*words, "--run", suite.runs[0].key]) == 0
    assert image_parts.main([*words, "--record"]) == 2
    shown = capsys.readouterr()
    assert "1 of 18 runs have finished and have parts" in shown.err
    assert "| R-26 | 40.0 | 20.0 |" in shown.out
    assert "400 detections, COCO's number is 100. Sizes of objects" in shown.out


def test_a_share_of_the_training_split_is_refused(tmp_path, capsys):
    changed = 'DATASETS.COCO_FOLDER: ""', 'DATASETS.COCO_FOLDER: "", DATASETS.VAL_SHARE: 0.1'
    words = ["--suite", suite_of(tmp_path, changed), "--output", str(tmp_path)]
    assert image_parts.main(words) == 2
    assert "error: suite nuclei: DATASETS.VAL_SHARE 0.1: parts are of a" in capsys.readouterr().err


def test_without_a_finished_run_one_line_says_so(tmp_path, capsys):
    words = ["--suite", suite_of(tmp_path), "--output", str(tmp_path / "out")]
    assert image_parts.main(words) == 2
    assert capsys.readouterr().err.strip() == (
        "error: suite nuclei: no run has finished; run the suite first"
    )
