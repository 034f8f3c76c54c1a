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


def test_every_image_type_is_taken_and_the_rest_is_counted(tmp_path: Path, log):
    taken = ["a.jfif", "b.jpe", "c.jp2", "d.dib", "e.WEBP", "f.mpg"]
    hidden = ["._g.JPG", ".DS_Store", ".ipynb_checkpoints/h.png"]
    for name in (*taken, *hidden, "i.heic", "j.HEIC", "Thumbs.db", "below/k.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert places(tmp_path) == places(tmp_path / "*") == taken
    assert log.messages == ["--input: 3 files left out: .heic 2, .db 1"] * 2
    log.clear()
    assert places(tmp_path / "*", tmp_path, tmp_path / "i.heic", recursive=True) == [
        *taken,
        "i.heic",
    ]
    assert log.messages == ["--input: 3 files left out: .db 1, .heic 1, .txt 1"]
    for name in taken:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"found \(3 files left out: .*\); --recursive searches"):
        places(tmp_path)


def test_a_clean_folder_has_no_line(tree: Path, log):
    (tree / "notes.txt").unlink()
    assert places(tree) and not log.messages


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
