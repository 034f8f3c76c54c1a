"""The report of a dataset, its clean copy and the account of the changes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from data_helpers import single_line
from odd_entries import ROWS, rle, spoiled

from lambda_det.data.checking.changes import FORM
from lambda_det.data.checking.clean_copy import CHANGES, choose_images, clean_folder, write_split
from lambda_det.data.checking.dataset_report import report_text, split_report
from lambda_det.data.checking.split_content import check_learnable, read_split
from lambda_det.data.reading.findings import KEPT, KINDS, LEFT_OUT
from lambda_det.data.reading.intake import load_coco
from lambda_det.errors import InputError

SPLIT = "train2017"


@pytest.fixture
def folder_of(write_folder, small_content):
    """A folder with the images of ``small_content`` and a json of its own."""

    def make(content: dict, name: str = "folder") -> Path:
        root = write_folder(name, train2017=small_content)
        (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        return root

    return make


def write_clean(root: Path, output: Path, split: str = SPLIT, *, copy: bool = False, **chosen):
    with clean_folder(str(output), [split]) as folder:
        data = read_split(str(root), split, all_places=True)
        write_split(folder, data, choose_images(data, **chosen), copy=copy)
    return json.loads((output / CHANGES).read_text())[split]


def learned(root: Path, split: str = SPLIT) -> list[dict]:
    """detectron2's dicts, without the folders of the files."""
    json_file = str(root / "annotations" / f"instances_{split}.json")
    images = load_coco(json_file, str(root / split))
    return [{**image, "file_name": os.path.basename(image["file_name"])} for image in images]


@pytest.mark.parametrize(("kind", "path", "value", "wanted"), ROWS)
def test_clean_copy(folder_of, small_content, tmp_path, kind, path, value, wanted):
    content = spoiled(small_content, path, value)
    root, output = folder_of(content), tmp_path / "clean"
    before = (root / "annotations" / "instances_train2017.json").read_bytes()
    account = write_clean(root, output)
    assert (root / "annotations" / "instances_train2017.json").read_bytes() == before

    findings = read_split(str(output), SPLIT).found.summary.findings
    assert {KINDS[kind].treatment for kind in findings.counts} <= {KEPT}
    assert learned(output) == learned(root)

    if KINDS[kind].treatment == KEPT:
        assert set(account["changes"]) == ({"form"} if value == [[]] else set())
        return
    (entry,) = account["changes"][kind]["entries"]
    section, index = path[:2]
    assert (entry["section"], entry["index"]) == (section, index)
    assert entry["id"] == content[section][index].get("id")
    if KINDS[kind].treatment == LEFT_OUT:
        assert entry["entry"] == content[section][index]
        return
    field = path[2]
    change = entry["changed"][field]
    if value == "remove":
        assert "from" not in change
    else:
        assert change["from"] == value
    assert change["to"] != value or type(change["to"]) is not type(value)
    written = json.loads((output / "annotations" / "instances_train2017.json").read_text())
    assert written[section][index][field] == change["to"]


def test_real_data_are_copied_as_they_are(coco_tiny, tmp_path):
    account = write_clean(coco_tiny, tmp_path / "clean", "val2017")
    assert set(account["changes"]) <= {FORM}  # crowds have their runs as numbers
    assert learned(tmp_path / "clean", "val2017") == learned(coco_tiny, "val2017")


def test_what_else_is_in_the_json_is_kept(folder_of, small_content, tmp_path):
    small_content |= {"info": {"year": 2017}, "licenses": [{"id": 1}]}
    small_content["categories"][0] |= {"supercategory": "number", "id": "7"}
    small_content["categories"].append(small_content["categories"][0])
    account = write_clean(folder_of(small_content), tmp_path / "clean")
    written = json.loads((tmp_path / "clean/annotations/instances_train2017.json").read_text())
    assert written["info"] == {"year": 2017} and written["licenses"] == [{"id": 1}]
    assert written["categories"] == [
        {"id": 7, "name": "seven", "supercategory": "number"},
        {"id": 3, "name": "three"},
    ]
    assert len(account["changes"]["repeated"]["entries"]) == 1
    assert account["changes"]["number"]["entries"][0]["changed"] == {"id": {"from": "7", "to": 7}}


def test_categories_of_one_id_and_other_fields_are_refused(folder_of, small_content):
    first = small_content["categories"][0]
    small_content["categories"].append({**first, "keypoints": ["nose"]})
    with pytest.raises(InputError, match="occurs twice with different fields") as error:
        read_split(str(folder_of(small_content)), SPLIT)
    single_line(error)


def test_all_changes_are_listed(folder_of, small_content, tmp_path):
    first = small_content["annotations"][0]
    small_content["annotations"] = [{**first, "id": i, "area": float("nan")} for i in range(20)]
    small_content["annotations"].append({**first, "id": 20, "segmentation": rle()})
    runs = {"size": [30, 40], "counts": [126, 8, 1066]}
    small_content["annotations"].append({**first, "id": 21, "segmentation": runs})
    account = write_clean(folder_of(small_content), tmp_path / "clean")["changes"]
    entries = account["area"]["entries"]
    assert [entry["index"] for entry in entries] == [*range(20)]
    assert entries[0]["changed"] == {"area": {"from": "nan", "to": 80}}
    (form,) = account[FORM]["entries"]
    assert form["id"] == 21 and form["changed"]["segmentation"]["from"] == runs


def test_images_are_links_or_copies(folder_of, small_content, tmp_path):
    root = folder_of(small_content)
    write_clean(root, tmp_path / "links")
    write_clean(root, tmp_path / "copies", copy=True)
    link, copied = (tmp_path / name / SPLIT / "a.jpg" for name in ("links", "copies"))
    assert link.is_symlink() and link.resolve() == (root / SPLIT / "a.jpg").resolve()
    assert not copied.is_symlink() and copied.read_bytes() == link.read_bytes()


def test_files_elsewhere_get_names_inside(folder_of, small_content, tmp_path):
    root = folder_of(small_content)
    (root / "other").mkdir()
    (root / SPLIT / "b.jpg").rename(root / "other" / "a.jpg")
    small_content["images"][0]["file_name"] = "./a.jpg"
    small_content["images"][1]["file_name"] = "../other/a.jpg"
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(small_content))
    account = write_clean(root, tmp_path / "clean")
    assert account["renamed_files"] == [
        {"image_id": 1, "from": "./a.jpg", "to": "a.jpg"},
        {"image_id": 2, "from": "../other/a.jpg", "to": "a_2.jpg"},
    ]
    files = [Path(image["file_name"]) for image in learned(tmp_path / "clean")]
    links = [(tmp_path / "clean" / SPLIT / file).resolve() for file in files]
    assert links == [(root / SPLIT / "a.jpg").resolve(), (root / "other" / "a.jpg").resolve()]


@pytest.mark.parametrize(
    "ids", [("frame-1", "frame-2"), (1, 2), (2**70, "frame"), (2**70, 2**70 + 1)]
)
def test_images_are_chosen_by_ids_of_any_type(folder_of, small_content, tmp_path, ids):
    for image, annotation, image_id in zip(
        small_content["images"], small_content["annotations"], ids, strict=True
    ):
        image["id"] = annotation["image_id"] = image_id
    small_content["annotations"][0]["area"] = -1
    root = folder_of(small_content)
    account = write_clean(root, tmp_path / "clean", image_ids=[str(ids[1])])
    assert learned(tmp_path / "clean") == learned(root)[1:]
    assert (account["images"], account["images_of_source"]) == (1, 2)
    assert account["changes"] == {}  # that of the other image does not concern this copy
    with pytest.raises(InputError, match="--image-ids 99: no such image") as error:
        write_clean(root, tmp_path / "other", image_ids=["99"])
    single_line(error)
    assert not (tmp_path / "other").exists()


def test_a_number_of_images(shapes):
    data = read_split(str(shapes), SPLIT)
    known = sorted(data.paths)
    assert choose_images(data) == known
    assert choose_images(data, count=5) == known[:5]
    drawn = choose_images(data, count=5, seed=1)
    assert drawn == choose_images(data, count=5, seed=1) != choose_images(data, count=5, seed=2)
    assert len(set(drawn)) == 5 and set(drawn) <= set(known) and drawn != known[:5]
    for count in (0, 49):
        with pytest.raises(InputError, match=f"--count {count}: .* has 48 images"):
            choose_images(data, count=count)


def test_a_second_split_is_added(shapes, folder_of, small_content, tmp_path):
    output = tmp_path / "few"
    write_clean(shapes, output, SPLIT, count=2)
    first = learned(output)
    account = write_clean(shapes, output, "val2017", count=3)
    assert account["images"] == 3 and set(json.loads((output / CHANGES).read_text())) == {
        SPLIT, "val2017"
    }  # fmt: skip
    assert learned(output) == first and len(learned(output, "val2017")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["few"]
    with pytest.raises(InputError, match="has the split 'val2017' already"):
        write_clean(shapes, output, "val2017")
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(InputError, match="exists already; name a folder that does not"):
        write_clean(shapes, mine)
    assert not any(mine.iterdir())


def test_nothing_is_left_of_a_copy_that_fails(shapes, tmp_path):
    write_clean(shapes, tmp_path / "few", SPLIT, count=2)
    before = sorted(tmp_path.rglob("*"))
    for output in ("few", "new"):
        with (
            pytest.raises(RuntimeError),
            clean_folder(str(tmp_path / output), ["val2017"]) as folder,
        ):
            write_split(folder, read_split(str(shapes), "val2017", all_places=True), [49])
            raise RuntimeError
        assert sorted(tmp_path.rglob("*")) == before


def test_numbers_of_a_report(folder_of, small_content):
    first, second = small_content["annotations"]
    small_content["images"][1] |= {"width": 41}
    small_content["images"].append({"id": 3, "file_name": "a.jpg", "height": 30, "width": 40})
    small_content["categories"].append({"id": 9, "name": "three"})
    more = [{**first, "id": 3, "bbox": [0, 0, 20, 20], "area": 2000, "segmentation": []}]
    more.append({**second, "id": 4, "iscrowd": 1})
    more.append({**second, "id": 5, "bbox": [0, 0, 0, 0], "segmentation": []})
    small_content["annotations"] += more
    report = split_report(read_split(str(folder_of(small_content)), SPLIT))
    counts = ("images", "objects", "crowd_regions", "left_out", "images_without_objects")
    assert [report[name] for name in counts] == [3, 3, 1, 1, 1]
    assert report["objects_with_mask"] == 2
    assert report["image_sizes"] == {
        "smallest": [40, 30], "median": [40, 30], "largest": [41, 30]
    }  # fmt: skip
    assert report["objects_per_image"] == {"median": 1, "largest": 2, "largest_in": "a.jpg"}
    assert [(c["id"], c["objects"]) for c in report["classes"]] == [(3, 1), (7, 2), (9, 0)]
    sizes = report["object_sizes"]
    assert (sizes["smallest"], sizes["largest"]) == (pytest.approx(80**0.5), 20)
    shares = [sizes[f"share_{name}"] for name in ("small", "medium", "large")]
    assert shares == pytest.approx([2 / 3, 1 / 3, 0])
    assert [(f["kind"], f["count"]) for f in report["findings"]] == [
        ("no_extent", 1),
        ("no_mask", 1),
    ]
    json.dumps(report, allow_nan=False)
    text = report_text(report)
    assert "seven 2, three (id 3) 1" in text and "classes without an object: three (id 9)" in text
    assert "masks: 2 objects have one" in text and "annotation id 5 of b.jpg" in text


def test_shares_of_sizes_are_not_negative(folder_of, small_content):
    first = small_content["annotations"][0]
    areas = [4, 4, *[96**2 + 1] * 9]
    small_content["annotations"] = [
        {**first, "id": number, "area": area, "segmentation": [], "bbox": [0, 0, 20, 20]}
        for number, area in enumerate(areas, start=1)
    ]
    report = split_report(read_split(str(folder_of(small_content)), SPLIT))
    assert report["object_sizes"]["share_large"] == 9 / 11
    assert report["object_sizes"]["share_medium"] == 0
    assert "medium 0 %" in report_text(report)


# 800 / 100 pixels: sides are 8 times as long after the resizing.
@pytest.mark.parametrize(
    ("sides", "first", "share"),
    [((1, 1), 4, 1), ((30, 30), 64, 0), ((4, 60), 32, 0), ((1, 30), 16, 0.5)],
)
def test_anchors_that_fit(folder_of, small_content, sides, first, share):
    for image, entry, side in zip(
        small_content["images"], small_content["annotations"], sides, strict=True
    ):
        image |= {"height": 100, "width": 100}
        entry |= {"bbox": [1, 1, side, side]}
    report = split_report(read_split(str(folder_of(small_content)), SPLIT))
    anchors = report["anchor_sizes"]
    assert anchors["fitting"] == [[first * 2**level] for level in range(5)]
    assert anchors["percentiles"]["50"] == 4 * sum(sides)
    assert anchors["share_outside_detectron2"] == share
    advised = f'advice: 100 % of the objects .* MODEL.ANCHOR_GENERATOR.SIZES "{anchors["fitting"]}"'
    found = re.search(advised.replace("[", r"\[").replace("]", r"\]"), report_text(report))
    assert bool(found) == (share > 0.5)


def test_what_a_training_refuses(folder_of, small_content):
    for entry in small_content["annotations"]:
        entry |= {"bbox": [0.1, 0.1, 0.5, 0.5]}
    data = read_split(str(folder_of(small_content)), SPLIT)
    with pytest.raises(InputError, match="all 2 boxes lie within 0 and 1") as error:
        check_learnable(data)
    single_line(error)
    small_content["annotations"] = []
    data = read_split(str(folder_of(small_content)), SPLIT)
    with pytest.raises(InputError, match="has no annotations to train on"):
        check_learnable(data)
    assert "this can only be a test set" in report_text(split_report(data))
