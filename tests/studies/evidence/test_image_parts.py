"""AP by kind of image and by size of object, against cases that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lambda_det.comparison.suite import read_suite
from lambda_det.errors import InputError
from lambda_det.io import write_json
from studies.evidence import image_parts
from studies.evidence.image_parts import ALL, KINDS, SIZES, kind_of, parts_of, parts_of_run, rows_of

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


@pytest.fixture
def kept_run(tmp_path):
    """A run of which the suite has kept its JSON, with a box AP of 40 and a mask AP of 39."""
    run = read_suite(SUITE, str(tmp_path / "out")).runs[0]
    assert run.zeroed and not run.without
    run = replace(run, kept=str(tmp_path / "kept" / "nuclei" / f"{run.key}.json"))
    row = {"box_ap": 40.0, "mask_ap": 39.0, "box_ap_zeroed": 20.0, "mask_ap_zeroed": 19.0}
    facts = {"key": run.key, "settings": run.settings, "finished": {}, "row": row}
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


def test_without_a_finished_run_one_line_says_so(tmp_path, capsys):
    words = ["--suite", SUITE, "--output", str(tmp_path)]
    read_kept = read_suite(SUITE, str(tmp_path)).runs
    if any(Path(run.kept).exists() for run in read_kept):
        pytest.skip("the runs of the suite are kept in this checkout")
    assert image_parts.main(words) == 2
    assert capsys.readouterr().err.strip() == (
        "error: suite nuclei: no run has finished; run the suite first"
    )
