"""The names that tools write into a json lead to its images; what does not fit is said why."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
from data_helpers import single_line, warnings

from lambda_det.data.reading.file_names import find_images, image_paths, is_lfs_pointer
from lambda_det.errors import InputError
from lambda_det.predict.inputs import listed_images

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def make(tmp_path: Path):
    """Writes files below ``data``, which has ``annotations/a.json``, and returns that folder."""

    def write(*names: str) -> Path:
        root = tmp_path / "data"
        for name in ("annotations/a.json", *names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("an image")
        return root

    return write


def paths(root: Path, *names: str) -> list[str]:
    """Paths of the names relative to ``root``, whose images are in ``images``."""
    found = image_paths(names, str(root / "images"), str(root / "annotations" / "a.json"))
    return [os.path.relpath(path, root) for path in found]


def refusal(root: Path, *names: str) -> str:
    with pytest.raises(InputError) as error:
        paths(root, *names)
    assert f"listed in {root / 'annotations' / 'a.json'}" in str(error.value)
    return single_line(error)


@pytest.mark.parametrize(
    "name", ["a.png", "deep/a.png", "./a.png", "../images/a.png", "deep/../a.png", "b\\c.png"]
)
def test_a_name_that_leads_to_a_file_is_kept_as_it_is(make, name: str, log):
    root = make("images/a.png", "images/deep/a.png", "images/b\\c.png", "images/b/c.png")
    images, file = str(root / "images"), str(root / "annotations" / "a.json")
    assert image_paths([name], images, file) == [f"{images}/{name}"]
    assert image_paths([f"{images}/{name}"], images, file) == [f"{images}/{name}"]
    assert not log.records


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("images\\a.png", "images/a.png", r"with / for \, relative to the folder of the dataset"),
        ("deep\\a.png", "images/deep/a.png", "with / for \\"),
        ("images/a.png", "images/a.png", "relative to the folder of the dataset"),
        ("near.png", "annotations/near.png", "relative to the folder of the json"),
        ("images/images/a.png", "images/a.png", "without the repeated name of the folder"),
        ("shot%201.png", "images/shot 1.png", "with the codes of a web address decoded"),
        ("d%2Fe f.png", "images/d/e f.png", "with the codes of a web address decoded"),
        ("shot 2.png", "images/shot%202.png", "with the codes of a web address"),
        ("C:\\me\\deep\\a.png", "images/deep/a.png", "with / for \\, by the end of the path"),
        ("/home/me/deep/a.png", "images/deep/a.png", "by the end of the path"),
        ("../../upload/7/one.png", "images/x/one.png", "by the name of the file alone"),
        ("one.png", "images/x/one.png", "by the name of the file alone"),
    ],
)
def test_names_as_tools_write_them(make, log, name: str, file: str, how: str):
    root = make("images/a.png", "images/deep/a.png", "images/b.png", file)
    assert paths(root, "b.png", name) == ["images/b.png", file]
    (line,) = warnings(log)
    assert f"1 of the 2 file names are read {how} (first: {name!r} is {root / file})" in line


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_forms_of_unicode(make, written: str, stored: str):
    def name(form: str) -> str:
        return unicodedata.normalize(form, "Köln.png")

    root = make(f"images/{name(stored)}")
    assert paths(root, name(written)) == [f"images/{name(stored)}"]


def test_one_line_for_each_kind(make, log):
    names = [f"{number}.png" for number in range(5)]
    root = make(*(f"images/{name}" for name in names), "images/x y.png")
    listed = ["x%20y.png", *(f"images\\{name}" for name in names)]
    assert paths(root, *listed) == ["images/x y.png", *(f"images/{name}" for name in names)]
    first, second = warnings(log)
    assert "1 of the 6" in first and "5 of the 6" in second and "'images\\\\0.png'" in second


def test_a_json_and_images_in_folders_of_their_own(make):
    root = make("images/a.png")
    found = image_paths(["images/a.png"], str(root / "images"), str(root / "a.json"))
    assert found == [str(root / "images/a.png")]


@pytest.mark.parametrize("name", ["one.png", "z/one.png", "deep\\one.png"])
def test_a_name_that_fits_two_files_is_refused(make, name: str):
    root = make("images/x/one.png", "images/y/one.png", "images/deep/one.png", "deep/one.png")
    text = refusal(root, name)
    assert re.search(r"does not exist, and \S+one\.png and \S+one\.png both fit its name", text)
    assert "(1 of the 1 images listed are missing)" in text


def test_a_file_that_is_one_by_a_link_fits_once(make):
    root = make("images/x/one.png")
    (root / "images" / "y").symlink_to(root / "images" / "x")
    (root / "images" / "z.png").symlink_to(root / "images" / "x" / "one.png")
    (root / "x").symlink_to(root / "images" / "x")
    assert paths(root, "z.png", "x\\one.png") == ["images/z.png", "images/x/one.png"]


@pytest.mark.parametrize("other", ["y/one.png", "one.png"])
def test_two_names_for_one_file_are_refused(make, other: str):
    text = refusal(make("images/one.png", "images/b.png"), "b.png", "x/one.png", other)
    assert f"several names of the json, 'x/one.png' and {other!r}" in text
    assert ("2 of the 3" if other == "y/one.png" else "1 of the 3") in text


def test_only_the_case_differs(make):
    text = refusal(make("images/IM_0.PNG", "images/b.png"), "b.png", "im_0.png", "c.png")
    assert "image " in text and "/images/im_0.png, listed in " in text
    assert re.search(r"does not exist; \S+/images/IM_0.PNG does, upper and lower case differ", text)
    assert "(2 of the 3 images listed are missing)" in text


def test_a_dangling_link(make):
    root = make("images/b.png")
    (root / "images" / "a.png").symlink_to("/nowhere/a.png")
    assert "a.png, listed in " in refusal(root, "a.png")
    assert "is a link to /nowhere/a.png, which does not exist" in refusal(root, "a.png")
    (root / "images" / "a.png").unlink()
    (root / "images" / "a.png").symlink_to(root / "images" / "b.png")
    assert paths(root, "a.png") == ["images/a.png"]


@pytest.mark.parametrize("pointers", [["a.png", "b.png", "c.png"], ["c.png"]])
def test_pointers_of_git_lfs(make, pointers: list[str]):
    root = make("images/a.png", "images/b.png", "images/c.png")
    for name in pointers:
        (root / "images" / name).write_text(POINTER)
    text = refusal(root, "a.png", "b.png", "c.png")
    assert f"images/{pointers[0]}, listed in " in text and "run git lfs pull" in text
    assert f"({len(pointers)} of the 3 images listed are missing)" in text
    large = root / "images" / "large.png"
    large.write_bytes(POINTER.encode() * 20)
    assert not is_lfs_pointer(str(large)) and not is_lfs_pointer(str(root / "gone"))


@pytest.mark.parametrize("name", ["", ".", "\0.png", "a\udcff\ud800.png", "/", "images", "%00"])
def test_names_that_no_file_can_have(make, name: str):
    assert "does not exist (1 of the 1 images" in refusal(make("images/a.png"), name)


@pytest.mark.parametrize("name", [12, None, ["a.png"], b"a.png"])
def test_a_name_that_is_not_text(make, name: object):
    with pytest.raises(InputError, match=r"a\.json: file_name .* of images\[1\] is not text"):
        paths(make("images/a.png"), "a.png", name)


def test_hidden_files_are_not_found_by_their_name_alone(make):
    assert "does not exist (" in refusal(make("images/.trash/a.png"), "x/a.png")


def test_no_folder_of_images(make):
    assert "does not exist (1 of the 1 images" in refusal(make(), "a.png")


def test_each_folder_is_listed_once(make, monkeypatch):
    root = make(*(f"images/{i % 3}/{i}.png" for i in range(60)), "images/top.png")
    listed: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scan(path))
    for function in ("isfile", "exists", "getsize"):
        original = getattr(os.path, function)
        monkeypatch.setattr(
            os.path, function, lambda path, f=original: listed.append("file") or f(path)
        )
    names = [f"{i % 3}/{i}.png" for i in range(60)] + ["top.png"]
    found = find_images(names, str(root / "images"), str(root / "annotations" / "a.json"))
    assert not found.missing
    folders = [path for path in listed if path != "file"]
    assert sorted(folders) == [str(root / "images")] + [f"{root}/images/{i}" for i in range(3)]
    assert listed.count("file") == 3  # files whose size is looked at, for pointers of Git LFS


def test_predict_reads_names_as_a_training_does(make, log):
    root = make("images/a.png", "images/deep/b.png")
    source = str(root / "annotations" / "a.json")
    listed = [{"id": 7, "file_name": "../images/a.png"}, {"id": 8, "file_name": "images\\b.png"}]
    files = [str(root / "images" / "a.png"), str(root / "images" / "deep" / "b.png")]
    assert [entry["id"] for entry in listed_images(files, listed, source)] == [7, 8]
    assert "1 of the 2 file names are read with / for \\, by the name" in warnings(log)[0]
    with pytest.raises(InputError, match="is not among the 2 images of --annotations"):
        listed_images([source], listed, source)


def test_predict_walks_no_folder(make, monkeypatch, log):
    """That of all inputs may be a home or the root of the disk."""
    root = make("images/a.png", "deep/er/b.png", "elsewhere/a.png")
    listed = [{"id": 7, "file_name": "images/a.png"}, {"id": 8, "file_name": "old\\b.png"}]
    files = [str(root / "images" / "a.png"), str(root / "deep" / "er" / "b.png")]

    def refuse(_: str) -> None:
        raise AssertionError("a folder is walked")

    monkeypatch.setattr(os, "walk", refuse)
    assert [e["id"] for e in listed_images(files, listed, str(root / "annotations/a.json"))] == [
        7,
        8,
    ]
    with pytest.raises(InputError, match="is not among the 2 images"):
        listed_images([str(root / "deep" / "c.png")], listed, str(root / "annotations/a.json"))
