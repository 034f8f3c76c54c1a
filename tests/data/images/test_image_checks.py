"""Image files are checked before iteration 0: missing, truncated, of another size, EXIF, white."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_helpers import single_line, warnings
from image_helpers import SIZE, check, cut, forget, record, save
from PIL import Image

from lambda_det.data.images import image_headers
from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.images.image_files import ImageReading
from lambda_det.data.images.image_headers import Header, read_headers
from lambda_det.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(tmp_path, monkeypatch)


@pytest.fixture
def four(tmp_path: Path) -> list[dict]:
    return [save(tmp_path / f"{i}.{end}") for i, end in enumerate(("jpg", "png", "webp", "tif"))]


def test_sound_files_pass_without_a_word(four: list[dict], log) -> None:
    found = check([*four, {"image_id": 7}, {"file_name": "https://host/a.jpg"}], workers=3)
    assert len(found) == 6 and not log.records


def another_size(path: Path) -> None:
    save(path, size=(41, 30))


FAULTS = {
    "missing": (0, Path.unlink, "does not exist"),
    "empty": (0, lambda path: path.write_bytes(b""), "is empty"),
    "text": (1, lambda path: path.write_text("<html>404"), "is no image that Pillow can open"),
    "cut jpeg": (0, cut, "is truncated"),
    "cut png": (1, cut, "is truncated"),
    "size": (0, another_size, "is 41 x 30 pixels (width x height), but its json says 40 x 30"),
    "floats": (
        3,
        lambda path: Image.fromarray(np.ones(SIZE[::-1], np.float32)).save(path),
        "cannot be read (its pixels are of Pillow's mode F, 8 or 16 bits are needed)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_cannot_be_used(name: str, four: list[dict], log) -> None:
    index, spoil, reason = FAULTS[name]
    path = Path(four[index]["file_name"])
    spoil(path)
    with pytest.raises(InputError) as error:
        check(four)
    assert single_line(error) == (
        f"the set: 1 of the 4 image files cannot be used; the first, {path}, {reason} "
        "(DATALOADER.SKIP_UNREADABLE True leaves them out)"
    )
    left = check(four, skip=True, consequence="; they count as not found")
    assert left == [image for image in four if image is not four[index]]
    assert warnings(log) == [
        "the set: 1 of the 4 image files are left out (DATALOADER.SKIP_UNREADABLE True); they "
        f"count as not found; the first, {path}, {reason}"
    ]
    assert check(four, skip=True, consequence="; they count as not found") == left
    assert len(warnings(log)) == 1  # a test set is checked at every evaluation


def test_nothing_is_left(four: list[dict]) -> None:
    for image in four:
        os.unlink(image["file_name"])
    with pytest.raises(InputError, match="4 of the 4 image files cannot be used"):
        check(four, skip=True)


@pytest.mark.parametrize("count", [3, 5000])
@pytest.mark.parametrize("index", [0, 1])
def test_what_follows_the_end_of_a_sound_image_is_no_fault(four, index: int, count: int) -> None:
    """Cameras append videos; these files are read without an error."""
    with open(four[index]["file_name"], "ab") as file:
        file.write(b"\1" * count)
    assert check(four) == four


def test_more_pixels_than_allowed(four: list[dict], tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        usable_images(four, "the set", ImageReading(max_pixels=1199))
    assert "it has 1200 pixels, more than INPUT.MAX_PIXELS 1199; raise" in single_line(error)
    assert usable_images(four, "the set", ImageReading(max_pixels=1200)) == four
    path = tmp_path / "mosaic.png"
    Image.new("1", (15000, 12000)).save(path)
    mosaic = [record(path, (15000, 12000))]
    with pytest.raises(
        InputError, match=r"180000000 pixels, more than INPUT\.MAX_PIXELS 178956970"
    ):
        check(mosaic)
    assert usable_images(mosaic, "the set", ImageReading(max_pixels=180_000_000)) == mosaic


# ---- EXIF ----


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_sizes_decide_of_a_quarter_turn(ending: str, tmp_path: Path, log) -> None:
    turned = save(tmp_path / f"a.{ending}", 6) | {"width": 30, "height": 40}
    stored = save(tmp_path / f"b.{ending}", 6)
    assert check([turned]) == [turned] and not log.records
    assert check([turned, stored]) == [turned, stored]
    (line,) = [entry.getMessage() for entry in log.records if entry.levelno == logging.INFO]
    assert "1 of the 2 images are taken as they are stored" in line and not warnings(log)
    for mode, good, bad in (("apply", turned, stored), ("ignore", stored, turned)):
        reading = ImageReading(exif=mode)
        assert usable_images([good], "the set", reading) == [good]
        with pytest.raises(InputError, match="but its json says"):
            usable_images([bad], "the set", reading)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_sizes_say_nothing_of_a_half_turn(orientation: int, tmp_path: Path, log) -> None:
    images = [save(tmp_path / "a.jpg", orientation), save(tmp_path / "b.jpg")]
    images.append(save(tmp_path / "c.jpg", orientation))
    check(images)
    (line,) = warnings(log)
    assert line.startswith("the set: 2 of the 3 images have an EXIF orientation")
    assert "the turned frame is taken" in line and "INPUT.EXIF 'ignore'" in line
    assert line.endswith(f"the first is {tmp_path}/a.jpg")
    for mode in ("apply", "ignore"):
        usable_images(images, "the set", ImageReading(exif=mode))
    assert len(warnings(log)) == 1


# ---- 16 bits ----


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (4000, "stay below 4096.*12 bits, set INPUT.WHITE_LEVEL 4095"),
        (10000, "stay below 16384.*set INPUT.WHITE_LEVEL 16383"),
        (20000, ""),
        (65535, ""),
        (0, ""),
    ],
)
def test_sixteen_bits_that_use_fewer(largest: int, words: str, tmp_path: Path, log) -> None:
    images = [save(tmp_path / "colour.jpg")]
    for index in range(40):
        path = tmp_path / f"{index}.{'png' if index % 2 else 'tif'}"
        Image.fromarray(np.full((30, 40), largest, np.uint16)).save(path)
        images.append(record(path))
    check(images)
    if words:
        (line,) = warnings(log)
        assert line.startswith("the set: 16 of the 40 16-bit images were looked at")
        assert re.search(words, line)
    assert bool(warnings(log)) == bool(words)
    log.clear()
    usable_images(images, "another set", ImageReading(white_level=4095))
    assert not warnings(log)


# ---- the memory ----


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch, four: list[dict]) -> list[str]:
    monkeypatch.setattr(image_headers, "_REMEMBERED", 4)
    return [image["file_name"] for image in four]


def opens(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files a new process opens."""
    count, original = [], image_headers.opened
    with monkeypatch.context() as patch:
        patch.setattr(image_headers, "_known", {})
        patch.setattr(image_headers, "opened", lambda f: (count.append(f), original(f))[1])
        found = read_headers(paths)
    assert all(isinstance(header, Header) and header[:2] == SIZE for header in found.values())
    return len(count)


def test_sound_files_are_remembered(many: list[str], monkeypatch, tmp_path: Path) -> None:
    assert opens(many, monkeypatch) == 4
    assert opens(many, monkeypatch) == 0
    os.utime(many[0], (1, 1))
    assert [opens(many, monkeypatch) for _ in range(2)] == [1, 0]
    (file,) = (tmp_path / "cache" / "lambda_det").iterdir()
    assert file.name.startswith("image_headers_") and file.suffix == ".json"


def test_splits_of_one_folder_are_remembered_side_by_side(many, monkeypatch, tmp_path) -> None:
    others = [save(tmp_path / f"other{i}.png")["file_name"] for i in range(4)]
    assert [opens(paths, monkeypatch) for paths in (many, others, many, others)] == [4, 4, 0, 0]


def test_a_broken_file_is_read_again(many: list[str]) -> None:
    whole = Path(many[0]).read_bytes()
    cut(Path(many[0]))
    assert read_headers(many)[many[0]] == read_headers(many)[many[0]] == "is truncated"
    Path(many[0]).write_bytes(whole)
    assert isinstance(read_headers(many)[many[0]], Header)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": 1}', '{"a": [1, 2, 3]}'])
def test_a_damaged_memory_is_none(content: str, many, monkeypatch, tmp_path: Path) -> None:
    opens(many, monkeypatch)
    (file,) = (tmp_path / "cache" / "lambda_det").iterdir()
    file.write_text(content)
    assert [opens(many, monkeypatch) for _ in range(2)] == [4, 0]


def test_a_memory_that_cannot_be_written_is_none(many, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert [opens(many, monkeypatch) for _ in range(2)] == [4, 4]


def test_few_files_leave_no_trace(four: list[dict], tmp_path: Path) -> None:
    check(four)
    assert not (tmp_path / "cache").exists()
