"""The files that the arguments of ``--input`` name, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_det.errors import InputError
from lambda_det.predict.inputs import InputFile, find_inputs, listed_images, output_names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", ".c.png", "film.mp4", "below/a.png", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def places(*words: Path | str, recursive: bool = False) -> list[str]:
    return [file.relative_path for file in find_inputs([*map(str, words)], recursive=recursive)]


def test_a_folder_gives_what_ends_like_an_image_or_video(tree: Path):
    assert places(tree) == ["a.png", "b.JPG", "film.mp4"]
    assert places(tree, recursive=True) == ["a.png", "b.JPG", "film.mp4", "below/a.png"]
    assert [file.is_video for file in find_inputs([str(tree)])] == [False, False, True]


def test_a_glob(tree: Path):
    assert places(tree / "*") == ["a.png", "b.JPG", "film.mp4"]
    assert places(tree / "**" / "*.png") == ["a.png", "a.png"]


def test_a_file_of_any_ending_and_each_file_once(tree: Path):
    words = (tree / "notes.txt", tree / "*.png", tree / "below" / ".." / "a.png")
    assert places(*words) == ["notes.txt", "a.png"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tree: Path):
    (tree / "a[1].png").write_bytes(b"")
    assert places(tree / "a[1].png") == ["a[1].png"]


@pytest.mark.parametrize("word", ["nothing.png", "*.bmp", ".git/..//below/../.git"])
def test_a_word_for_nothing_is_one_line(tree: Path, word: str):
    with pytest.raises(InputError, match="--input"):
        find_inputs([str(tree / "below" / word)])


def test_names_that_clash_are_numbered():
    files = [InputFile(path, Path(path).name) for path in ("x/a.png", "y/A.jpg", "z/a.png")]
    files.append(InputFile("predictions.mp4", "predictions.mp4"))
    endings = [[".png"]] * 3 + [[".json", ".mp4"]]
    assert output_names(files, "out", endings, taken=["predictions.json"]) == [
        ["a.png"], ["A_2.png"], ["a_3.png"], ["predictions_2.json", "predictions_2.mp4"],
    ]  # fmt: skip


def test_an_input_is_never_overwritten(tree: Path):
    files = find_inputs([str(tree / "a.png")])
    with pytest.raises(InputError, match=r"its file a\.png is an input"):
        output_names(files, str(tree), [[".png"]])
    assert output_names(files, str(tree), [[".jpg"]]) == [["a.jpg"]]


LISTED = [
    {"id": 4, "file_name": "a.png"},
    {"id": 9, "file_name": "x/a.png"},
    {"id": 2, "file_name": "/y/b.png"},
]


def test_the_longest_name_that_fits():
    def of(path: str) -> int:
        return listed_images([path], LISTED, "A.json")[0]["id"]

    assert of("data/a.png") == of("data/xx/a.png") == 4
    assert of("data/x/a.png") == of("x/../x/a.png") == 9
    assert of("/y/../y/b.png") == 2
    for path in ("b.png", "z/b.png", "yy/b.png", "c.png"):
        with pytest.raises(InputError, match=r"is not among the 3 images of --annotations A\.json"):
            of(path)
