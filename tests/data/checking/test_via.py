"""Jsons of the VGG Image Annotator, read as a dataset."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from data_helpers import single_line
from PIL import Image

from lambda_det.commands import check_data
from lambda_det.data.checking.split_content import readers_of
from lambda_det.data.checking.via import read_via
from lambda_det.data.reading.intake import load_coco
from lambda_det.errors import InputError

POLYGON = {"name": "polygon", "all_points_x": [4, 14, 14, 4], "all_points_y": [6, 6, 14, 14]}
SHAPES = {
    "rect": {"name": "rect", "x": 4, "y": 6, "width": 10, "height": 8},
    "circle": {"name": "circle", "cx": 20, "cy": 15, "r": 8.5},
    "ellipse": {"name": "ellipse", "cx": 20, "cy": 15, "rx": 12, "ry": 5, "theta": 0.5},
    "polygon": POLYGON,
    "point": {"name": "point", "cx": 20, "cy": 15},
    "polyline": {**POLYGON, "name": "polyline"},
}


def region(shape: dict | None = None, **attributes: object) -> dict:
    return {"shape_attributes": shape or POLYGON, "region_attributes": attributes}


def entries(**regions: list) -> dict:
    """VIA's region data: name of a file -> its regions."""
    return {
        f"{name}.png123": {
            "filename": f"{name}.png", "size": 123, "regions": own, "file_attributes": {},
        }
        for name, own in regions.items()
    }  # fmt: skip


def project(content: dict, **attributes: dict) -> dict:
    return {
        "_via_settings": {"core": {"default_filepath": ""}},
        "_via_img_metadata": content,
        "_via_attributes": {"region": attributes, "file": {}},
    }


def write(folder: Path, content: dict, name: str = "via_region_data.json", images: str = "") -> str:
    (folder / images).mkdir(parents=True, exist_ok=True)
    for file in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (90, 90, 90)).save(folder / images / file)
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


@pytest.mark.parametrize("images", ["", "images"])
@pytest.mark.parametrize("is_project", [False, True])
def test_a_json_becomes_a_dataset(tmp_path: Path, capsys, images: str, is_project: bool):
    content = entries(a=[region(name="cat"), region(name="dog")], b=[])
    name = "via_region_data.json"
    if is_project:
        content, name = project(content), "via_project_1Jan2020_10h.json"
    file = write(tmp_path / "data", content, name, images)
    for path in (file, str(tmp_path / "data")):
        output = tmp_path / f"clean{len(path)}"
        assert check_data.main([path, "--write", str(output)]) == 0
        assert "objects per class (2 classes): cat 1, dog 1" in capsys.readouterr().out
        written = str(output / "annotations" / "instances_train2017.json")
        first, second = load_coco(written, str(output / "train2017"))
        assert (first["height"], first["width"]) == (30, 40) and not second["annotations"]
        wanted = [[4, 6, 14, 6, 14, 14, 4, 14]]
        assert [a["segmentation"] for a in first["annotations"]] == [wanted] * 2
        assert [a["category_id"] for a in first["annotations"]] == [0, 1]
        assert first["annotations"][0]["bbox"] == [4, 6, 10, 8]


def test_folders_of_splits(tmp_path: Path, capsys):
    for split in ("train", "val"):
        write(tmp_path / "balloon" / split, entries(a=[region()], b=[region()]))
    words = [str(tmp_path / "balloon"), "--write", str(tmp_path / "clean")]
    assert check_data.main(words) == 0
    assert "objects per class (1 classes): object 2" in capsys.readouterr().out
    assert check_data.main([str(tmp_path / "clean"), "--split", "val"]) == 0
    assert check_data.main([words[0], "--split", "test"]) == 2
    assert "--split test: the splits of" in capsys.readouterr().err


def test_regions_of_the_first_version(tmp_path: Path):
    content = entries(a={"0": region(type="x"), "1": region(type="x")}, b={})
    found, _ = read_via(write(tmp_path, content))
    assert len(found["annotations"]) == 2


def test_shapes(tmp_path: Path):
    regions = [region(shape) for shape in SHAPES.values()]
    read = readers_of(write(tmp_path, entries(a=regions, b=[])), "train")["train"]
    found = read().found
    kept = dict(zip(("rect", "circle", "ellipse", "polygon"), found.annotations, strict=True))
    assert found.summary.findings.counts["point_mask"] == 2
    assert kept["rect"]["bbox"] == [4, 6, 10, 8] and not kept["rect"].get("segmentation")
    assert kept["polygon"]["bbox"] == [4, 6, 10, 8]
    ys, xs = np.mgrid[:30, :40] + 0.5
    xs, ys = xs - 20, ys - 15
    along = xs * np.cos(0.5) + ys * np.sin(0.5)
    across = ys * np.cos(0.5) - xs * np.sin(0.5)
    inside = {
        "circle": xs**2 + ys**2 < 8.5**2,
        "ellipse": (along / 12) ** 2 + (across / 5) ** 2 < 1,
    }
    areas = {"circle": np.pi * 8.5**2, "ellipse": np.pi * 12 * 5}
    for name, wanted in inside.items():
        codes = mask_util.frPyObjects(kept[name]["segmentation"], 30, 40)
        mask = mask_util.decode(mask_util.merge(codes)).astype(bool)
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.93
        assert kept[name]["area"] == pytest.approx(areas[name], rel=0.01)


def test_the_class_is_an_attribute(tmp_path: Path):
    both = [region(kind="cat", pose="sits"), region(kind=" cat ", pose="lies")]
    file = write(tmp_path, entries(a=both, b=[]))
    with pytest.raises(InputError, match="--class-attribute: kind, pose") as error:
        read_via(file)
    single_line(error)
    with pytest.raises(InputError, match=r"--class-attribute size: .* attributes: kind, pose"):
        read_via(file, "size")
    names = {key: read_via(file, key)[0]["categories"] for key in ("kind", "pose")}
    assert [c["name"] for c in names["kind"]] == ["cat"]
    assert [c["name"] for c in names["pose"]] == ["lies", "sits"]


def test_options_of_a_project_are_classes(tmp_path: Path):
    marks = [{"dog": True, "cat": False}, {"dog": True, "cat": True}, {}, "bird"]
    content = project(
        entries(a=[region(kind=mark) for mark in marks], b=[region()]),
        kind={"type": "checkbox", "options": {"dog": "a dog", "cat": "", "ant": ""}},
    )
    found = readers_of(write(tmp_path, content), "train")["train"]().found
    assert found.summary.class_names == ["dog", "cat", "ant", "bird"]
    assert [a["category_id"] for a in found.annotations] == [1, 4]
    assert found.summary.findings.counts == {"no_class": 3, "area": 2, "box_from_mask": 2}


def test_empty_names_are_no_classes(tmp_path: Path):
    content = project(
        entries(a=[region(kind="cat"), region(kind=None), region(kind={" cat": True})], b=[]),
        kind={"type": "radio", "options": {"": "", "cat ": "a cat", " ": ""}},
    )
    found = readers_of(write(tmp_path, content), "train")["train"]().found
    assert found.summary.class_names == ["cat"]
    assert [a["id"] for a in found.annotations] == [1, 3]
    assert found.summary.findings.counts["no_class"] == 1


def test_a_turned_image_has_the_size_that_is_seen(tmp_path: Path):
    file = write(tmp_path, entries(a=[region()], b=[]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png", exif=exif)
    first, second = read_via(file)[0]["images"]
    assert (first["height"], first["width"]) == (40, 30)
    assert (second["height"], second["width"]) == (30, 40)


WRONG = {
    "shape": (
        region({"name": "star"}),
        "region 1 .a.png. has the shape 'star'; allowed: 'polygon', 'rect'",
    ),
    "number": (region({**SHAPES["rect"], "x": "4"}), "shape that makes no sense"),
    "points": (region({**POLYGON, "all_points_x": [1]}), "shape that makes no sense"),
    "none": ({"region_attributes": {}}, "has the shape None; allowed: "),
    "text": ("a region", "has the region 'a region'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense(tmp_path: Path, name: str):
    wrong, said = WRONG[name]
    file = write(tmp_path, entries(a=[wrong], b=[]))
    with pytest.raises(InputError, match=said) as error:
        readers_of(file, "train")["train"]()
    assert file in single_line(error)


def test_what_is_missing(tmp_path: Path, capsys):
    content = entries(a=[region()], c=[])
    assert check_data.main([write(tmp_path, content)]) == 2
    assert "c.png cannot be read: " in capsys.readouterr().err
    write(tmp_path, copy.deepcopy(content), "via_other.json")
    assert check_data.main([str(tmp_path)]) == 2
    assert "several jsons of VIA (via_other.json, via_region_data.json)" in capsys.readouterr().err
