"""What the check of image files decodes, what it calls truncated, and whose fault an error is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from data_helpers import single_line
from image_helpers import SIZE, check, cut, forget, noise, record, save
from PIL import Image

from lambda_det.data.images import image_headers
from lambda_det.data.images.image_files import read_image, size_as_seen
from lambda_det.data.images.image_headers import Header, read_headers
from lambda_det.errors import InputError, UnreadableImageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(tmp_path, monkeypatch)


def late_exif(path: Path, orientation: int) -> dict:
    """A PNG whose EXIF part follows its pixels, as some programs write it."""
    save(path, orientation)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    tail = len(data) - 12  # the chunk IEND
    path.write_bytes(data[:start] + data[end:tail] + data[start:end] + data[tail:])
    return record(path, SIZE[::-1] if orientation >= 5 else SIZE)


def test_a_png_is_not_decoded_for_its_header(tmp_path: Path, monkeypatch) -> None:
    late = late_exif(tmp_path / "late.png", 6)
    assert check([late]) == [late]
    images = [save(tmp_path / "plain.png"), save(tmp_path / "turned.png", 3)]
    Image.fromarray(noise()).save(tmp_path / "none.png")
    images.append(record(tmp_path / "none.png"))

    def refuse(_: object) -> None:
        raise AssertionError("it is decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    found = read_headers([image["file_name"] for image in images])
    assert [header.orientation for header in found.values()] == [1, 3, 1]
    monkeypatch.setattr("lambda_det.data.images.image_files.PILLOW_LIMIT", 1199)
    monkeypatch.setattr(image_headers, "_known", {})
    (header,) = read_headers([late["file_name"]]).values()
    assert isinstance(header, Header) and header.orientation == 1  # too large to look for it


@pytest.mark.parametrize("ending", ["tif", "bmp", "gif", "ppm", "jp2", "webp"])
def test_cut_files_of_formats_without_an_end_mark(ending: str, tmp_path: Path) -> None:
    image = record(tmp_path / f"a.{ending}")
    Image.fromarray(noise()).save(image["file_name"])
    assert check([image]) == [image]
    cut(tmp_path / f"a.{ending}")
    with pytest.raises(InputError, match="1 of the 1 image files cannot be used"):
        check([image])


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_cut_file_above_the_limit_is_truncated(ending: str, tmp_path: Path, monkeypatch) -> None:
    image = save(tmp_path / f"a.{ending}")
    monkeypatch.setattr(image_headers, "PILLOW_LIMIT", 1199)
    assert check([image]) == [image]
    cut(tmp_path / f"a.{ending}")
    assert list(read_headers([image["file_name"]]).values()) == ["is truncated"]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O")],
)
def test_a_fault_of_the_machine_leaves_no_image_out(error, tmp_path: Path, monkeypatch) -> None:
    image = save(tmp_path / "a.jpg")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", refuse)
    for read in (
        lambda: check([image], skip=True),
        lambda: read_image(image["file_name"]),
        lambda: size_as_seen(image["file_name"]),
    ):
        with pytest.raises(InputError, match="a fault of this machine, not of the file") as found:
            read()
        assert not isinstance(found.value, UnreadableImageError)
        assert single_line(found).startswith(f"image {image['file_name']} cannot be read: ")
