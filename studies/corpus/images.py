"""Pictures: damaged ones, and odd ones that are legal."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from studies.corpus.case import LEFT_BY_A_START, Command, Group
from studies.corpus.files import HEIGHT, WIDTH, content, draw, picture, train, write_folder

case = Group("images")
_STARTED = LEFT_BY_A_START


def _with(
    folder: Path, save, name: str = "b.png", sides: tuple[int, int] = (HEIGHT, WIDTH)
) -> Path:
    """``folder/data`` with the second picture made by ``save(path)``; its sides in the json."""
    value = content()
    value["images"][1] |= {"file_name": name, "height": sides[0], "width": sides[1]}
    root = write_folder(folder, value)
    save(root / "train2017" / name)
    return root


def _sixteen(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    picture(1).save(path, exif=exif)


@case("a JPEG that is cut", "b.jpg cannot be read", left=_STARTED)
def cut(folder: Path) -> Command:
    def save(path: Path) -> None:
        picture(1, 200, 200).resize((WIDTH, HEIGHT)).save(path, quality=95)
        path.write_bytes(path.read_bytes()[:700])

    _with(folder, save, "b.jpg")
    return train(folder)


@case("a PNG that is cut", "b.png cannot be read", left=_STARTED)
def cut_png(folder: Path) -> Command:
    def save(path: Path) -> None:
        picture(1).save(path)
        path.write_bytes(path.read_bytes()[:600])

    _with(folder, save)
    return train(folder)


@case("0 bytes", "b.png cannot be read", left=_STARTED)
def no_bytes(folder: Path) -> Command:
    _with(folder, lambda path: path.write_bytes(b""))
    return train(folder)


@case("0 bytes, to be drawn", "b.png cannot be read")
def no_bytes_drawn(folder: Path) -> Command:
    _with(folder, lambda path: path.write_bytes(b""))
    return draw(folder)


@case("a text called .jpg", "b.jpg cannot be read", left=_STARTED)
def text(folder: Path) -> Command:
    _with(folder, lambda path: path.write_text("this is no picture"), "b.jpg")
    return train(folder)


@case("a folder called b.png", "b.png cannot be read", left=_STARTED)
def is_folder(folder: Path) -> Command:
    def save(path: Path) -> None:
        path.unlink()
        path.mkdir()

    _with(folder, save)
    return train(folder)


@case("a PNG of 300 bytes that claims 60000 x 60000 pixels", "b.png cannot be read", left=_STARTED)
def bomb(folder: Path) -> Command:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    def save(path: Path) -> None:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(10000)))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))

    _with(folder, save, sides=(60000, 60000))
    return train(folder)


@case("another size than the json's", "but its json says 41 x 30", left=_STARTED)
def other_size(folder: Path) -> Command:
    _with(folder, picture(1).save, sides=(HEIGHT, WIDTH + 1))
    return train(folder)


@case("not there", "b.png, listed in DIR/data/annotations/instances_train2017.json, is not there")
def absent(folder: Path) -> Command:
    _with(folder, lambda path: path.unlink())
    return train(folder)


@case("CMYK JPEG", "b.jpg read: 120 x 160 pixels, mean 130", status=0, left=_STARTED)
def cmyk(folder: Path) -> Command:
    _with(folder, lambda path: picture(1).convert("CMYK").save(path, quality=95), "b.jpg")
    return train(folder)


@case("16-bit grey PNG", "b.png read: 120 x 160 pixels, mean 130", status=0, left=_STARTED)
def sixteen_bits(folder: Path) -> Command:
    _with(folder, Image.fromarray(_sixteen()).save)
    return train(folder)


@case("32-bit floats in a TIFF", "mode F, 8 or 16 bits are needed", left=_STARTED)
def floats(folder: Path) -> Command:
    pixels = (_sixteen() / 65535).astype(np.float32)
    _with(folder, Image.fromarray(pixels).save, "b.tif")
    return train(folder)


@case("PNG with alpha, all transparent", "b.png read: 120 x 160 pixels, mean 130", status=0,
      left=_STARTED)  # fmt: skip
def alpha(folder: Path) -> Command:
    image = picture(1)
    image.putalpha(0)
    _with(folder, image.save)
    return train(folder)


@case("two colours of one bit", "b.png read: 120 x 160 pixels, mean 130", status=0, left=_STARTED)
def one_bit(folder: Path) -> Command:
    _with(folder, picture(1).convert("1").save)
    return train(folder)


@case("turned by its EXIF, json of what is seen", "b.jpg read: 160 x 120 pixels", status=0,
      left=_STARTED)  # fmt: skip
def exif(folder: Path) -> Command:
    _with(folder, _rotated, "b.jpg", (WIDTH, HEIGHT))
    return train(folder)


@case("turned by its EXIF, json of what is stored", "is 30 x 40 pixels (width x height), but its",
      left=_STARTED)  # fmt: skip
def exif_stored(folder: Path) -> Command:
    _with(folder, _rotated, "b.jpg")
    return train(folder)


def _thin(folder: Path, height: int, width: int) -> Command:
    root = _with(folder, picture(1, height, width).save, sides=(height, width))
    path = root / "annotations" / "instances_train2017.json"
    value = json.loads(path.read_text())
    points = [[0, 0, width, 0, width, height, 0, height]]
    value["annotations"][1] |= {"bbox": [0, 0, width, height], "segmentation": points}
    path.write_text(json.dumps(value))
    return train(folder, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 128)


@case("1 x 1 pixel", "b.png read: 64 x 64 pixels", status=0, left=_STARTED)
def one_pixel(folder: Path) -> Command:
    return _thin(folder, 1, 1)


@case("1 x 5000 pixels", "b.png read: 1 x 128 pixels", status=0, left=_STARTED)
def thin(folder: Path) -> Command:
    return _thin(folder, 1, 5000)


@case("5000 x 1 pixels", "b.png read: 128 x 1 pixels", status=0, left=_STARTED)
def tall(folder: Path) -> Command:
    return _thin(folder, 5000, 1)
