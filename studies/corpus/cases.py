"""The cases of bad input: each writes files into a folder and names the command that reads them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
HEIGHT, WIDTH = 30, 40


@dataclass(frozen=True)
class Case:
    """One row of the page.

    Attributes:
        group: kind of input.
        title: what is wrong with it, or odd.
        make: writes the files into a folder; returns the name of a command and its words.
        says: part of the line of the error, or of the output of a success.
        status: exit status that is expected.
        around: makes the context in which the command runs.
    """

    group: str
    title: str
    make: Callable[[Path], list[object]]
    says: str
    status: int
    around: Callable[[], contextlib.AbstractContextManager]


CASES: list[Case] = []


def case(group: str, title: str, says: str, status: int = 2, around=contextlib.nullcontext):
    """A decorator of the function that makes the case."""

    def add(make: Callable[[Path], list[object]]) -> None:
        CASES.append(Case(group, title, make, says, status, around))

    return add


# ---- correct files, to be spoiled, and the commands that read them ----


def content(section: str = "images", index: int = 1, **values: object) -> dict:
    """A correct COCO json: two images with an object each, category ids 7 and 3.

    ``values`` replace those of one entry of a section.
    """
    points = [[4, 6, 14, 6, 14, 14, 4, 14]]
    square = {"bbox": [4, 6, 10, 8], "area": 80, "iscrowd": 0, "segmentation": points}
    found = {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in ((1, "a.png"), (2, "b.png"))
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": category, **square}
            for number, category in ((1, 7), (2, 3))
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }
    found[section][index] |= values
    return found


def detections(**values: object) -> list[dict]:
    """Detections that find both objects; ``values`` replace those of the second."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [{k: a[k] for k in keys} | {"score": 0.9} for a in content()["annotations"]]
    found[1] |= values
    return found


def noise(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_folder(folder: Path, value: object = None) -> Path:
    """``folder/data`` in COCO layout, of ``value`` (a json, or its text)."""
    root = folder / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    text = value if isinstance(value, str) else json.dumps(value or content())
    (root / "annotations" / "instances_train2017.json").write_text(text)
    for name in ("a.png", "b.png"):
        noise().save(root / "train2017" / name)
    return root


def train(folder: Path, *overrides: object) -> list[object]:
    """Train on ``folder/data``."""
    words = ["train_net", "--config-file", CONFIG, "DATASETS.COCO_FOLDER", folder / "data"]
    words += ["DATASETS.TRAIN", "('train2017',)", "DATASETS.TEST", "()"]
    return [*words, "OUTPUT_DIR", folder / "out", "SOLVER.IMS_PER_BATCH", 1, *overrides]


def evaluate(folder: Path, truth: dict | None = None) -> list[object]:
    """Evaluate the correct detections."""
    (folder / "truth.json").write_text(json.dumps(truth or content()))
    (folder / "found.json").write_text(json.dumps(detections()))
    words = ["evaluate", "--annotations", folder / "truth.json"]
    return [*words, "--predictions", folder / "found.json", "--output", folder / "metrics.json"]


# ---- images ----


def _image(title: str, says: str, save: Callable[[Path], object], name: str = "b.png",
           sides: tuple[int, int] = (HEIGHT, WIDTH), status: int = 2) -> None:  # fmt: skip
    """A case whose second image is made by ``save(path)``; its sides in the json."""

    @case("images", title, says, status)
    def make(folder: Path) -> list[object]:
        height, width = sides
        root = write_folder(folder, content(file_name=name, height=height, width=width))
        save(root / "train2017" / name)
        return train(folder)


def _cut(path: Path) -> None:
    noise().save(path, quality=95)
    path.write_bytes(path.read_bytes()[:700])


def _bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10000)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def _transparent(path: Path) -> None:
    image = noise()
    image.putalpha(0)
    image.save(path)


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    noise().save(path, exif=exif)


_image("a JPEG that is cut", "b.jpg, is truncated", _cut, "b.jpg")
_image("a PNG of 300 bytes that claims 60000 x 60000 pixels",
       "b.png, cannot be read (it has 3600000000 pixels, more than INPUT.MAX_PIXELS", _bomb,
       sides=(60000, 60000))  # fmt: skip
_image("PNG with alpha, all transparent", "b.png read: 120 x 160 pixels, mean 130", _transparent,
       status=0)  # fmt: skip
_image("turned by its EXIF, json of what is seen", "b.jpg read: 160 x 120 pixels", _turned,
       "b.jpg", (WIDTH, HEIGHT), status=0)  # fmt: skip
_image("turned by its EXIF, json of what is stored", "b.jpg read: 120 x 160 pixels", _turned,
       "b.jpg", status=0)  # fmt: skip


# ---- the json of a training set ----


def _json(title: str, value: object, says: str, status: int = 2) -> None:
    """A case whose json is ``value``, or what ``value()`` gives."""

    @case("json", title, says, status)
    def make(folder: Path) -> list[object]:
        write_folder(folder, value() if callable(value) else value)
        return train(folder)


def _crowded() -> dict:
    value = content()
    first = value["annotations"][0]
    return value | {"annotations": [first | {"id": number} for number in range(100_000)]}


def _two_points() -> dict:
    value = content()
    for annotation in value["annotations"]:
        annotation["segmentation"] = [[4, 6, 14, 6]]
    return value


_json("100 000 brackets deep", "[" * 100_000, "is not valid JSON")
_json("a number for a class name", content("categories", name=3), "name 3; text is needed")
_json("a file name with a line break and a terminal's escape",
      content(file_name="b\n\x1b[2Jc.png"), r"b\n\x1b[2Jc.png, listed in")  # fmt: skip
_json("a file name with byte 0", content(file_name="b\0.png"), r"b\x00.png")
_json("a box outside of the image", content("annotations", bbox=[100, 100, 9, 9]),
      "1 objects lie outside of their image; left out", status=0)  # fmt: skip
_json("a box without width beside its mask", content("annotations", bbox=[4, 6, 0, 8]),
      "b.png read: 120 x 160 pixels, mean 130, objects: 1", status=0)  # fmt: skip
_json("polygons of 2 points only", _two_points, "no annotations to train on")
_json("100 000 annotations in one image", _crowded, "a.png has 100000 objects")


# ---- detections, and the annotations that judge them ----


def _judged_by_many() -> dict:
    value = content()
    for number in range(100_000):
        box = [number % 30, number % 20, 1 + number % 9, 1 + number % 7]
        value["annotations"].append(
            value["annotations"][0] | {"id": 3 + number, "bbox": box, "area": box[2] * box[3]}
        )
    for annotation in value["annotations"]:
        annotation.pop("segmentation", None)
    return value


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """A disk that takes no file of more than 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@case("detections", "boxes judged by 100 000 annotations of one image", "│ box │", 0)
def _judged(folder: Path) -> list[object]:
    words = evaluate(folder, _judged_by_many())
    boxes = [{k: v for k, v in one.items() if k != "segmentation"} for one in detections()]
    (folder / "found.json").write_text(json.dumps(boxes))
    return words


@case("detections", "a class name that is half a letter", "│ box │ 100.0 │", 0)
def _half_a_letter(folder: Path) -> list[object]:
    return evaluate(folder, content("categories", name="\ud83d"))


@case("detections", "the disk is full while the metrics are written", "cannot be written",
      around=_full_disk)  # fmt: skip
def _full(folder: Path) -> list[object]:
    (folder / "metrics.json").write_text("{}\n")  # of an earlier evaluation
    return evaluate(folder)


@case("detections", "to be drawn: a box 1e300 pixels wide", "p.png: 2 images", 0)
def _drawn(folder: Path) -> list[object]:
    root = write_folder(folder)
    (folder / "found.json").write_text(json.dumps(detections(bbox=[4, 6, 1e300, 8])))
    words = ["draw_predictions", "--images", root / "train2017", "--annotations"]
    words += [root / "annotations" / "instances_train2017.json", "--predictions"]
    return [*words, folder / "found.json", "--output", folder / "p.png"]


# ---- configs and weights ----


@case("configs", "code in a file that the config is based on", "_BASE_ DIR/base.yaml (of DIR/c")
def _code(folder: Path) -> list[object]:
    tag = f'!!python/object/apply:os.mkdir ["{folder}/ran"]'
    (folder / "base.yaml").write_text(f"OUTPUT_DIR: {tag}")
    (folder / "c.yaml").write_text("_BASE_: base.yaml")
    return ["train_net", "--config-file", folder / "c.yaml"]


@case("configs", "bytes that are no text", "--config-file DIR/c.yaml: ")
def _no_text(folder: Path) -> list[object]:
    (folder / "c.yaml").write_bytes(b"\0\1\2")
    return ["train_net", "--config-file", folder / "c.yaml"]


@case("configs", "an unknown flip", "INPUT.RANDOM_FLIP")
def _flip(folder: Path) -> list[object]:
    write_folder(folder)
    return train(folder, "INPUT.RANDOM_FLIP", "both")


class _Code:
    """Pickled, it makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "ran")

    def __reduce__(self):
        return os.mkdir, (self._path,)


@case("weights", "a checkpoint with code", "w.pth: contains no weights")
def _checkpoint(folder: Path) -> list[object]:
    torch.save({"model": _Code(folder)}, folder / "w.pth")
    return ["convert_weights", folder / "w.pth", folder / "converted.pth"]


@case("weights", "safetensors with a header of 2^62 bytes", "w.safetensors: cannot be read")
def _header(folder: Path) -> list[object]:
    (folder / "w.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    return ["convert_weights", folder / "w.safetensors", folder / "converted.pth"]


# ---- names of files and folders ----

_ODD_NAME = "my data (2) Bäume 木 λ a'b\"$HOME;`c`"


@case("paths", "blanks, quotes, dollars and letters that are not ASCII in a folder's name",
      "b.png read: 120 x 160 pixels", 0)  # fmt: skip
def _odd_folder(folder: Path) -> list[object]:
    write_folder(folder / _ODD_NAME)
    return train(folder / _ODD_NAME)


@case("paths", "the same in the names of files", "│ box │ 100.0 │", 0)
def _odd_files(folder: Path) -> list[object]:
    (folder / _ODD_NAME).mkdir()
    return evaluate(folder / _ODD_NAME)


@case("paths", "bytes that are no UTF-8 in the names of files", "│ box │ 100.0 │", 0)
def _no_utf8(folder: Path) -> list[object]:
    (folder / os.fsdecode(b"\xff")).mkdir()
    return evaluate(folder / os.fsdecode(b"\xff"))


@case("paths", "bytes that are no UTF-8 in the name of a folder that does not exist", r"\udcff")
def _no_utf8_absent(folder: Path) -> list[object]:
    return train(folder, "DATASETS.COCO_FOLDER", folder / os.fsdecode(b"\xff"))


@case("paths", "OUTPUT_DIR is a file", "is a file, not a folder")
def _output_is_file(folder: Path) -> list[object]:
    write_folder(folder)
    (folder / "out").write_text("mine")
    return train(folder)


@case("paths", "OUTPUT_DIR lies in a file", "cannot be written (Not a directory)")
def _output_in_file(folder: Path) -> list[object]:
    write_folder(folder)
    (folder / "out").write_text("mine")
    return train(folder, "OUTPUT_DIR", folder / "out" / "run")


@case("paths", "a subset onto a folder that exists", "exists already")
def _subset_exists(folder: Path) -> list[object]:
    (folder / "few").mkdir()
    (folder / "few" / "mine").write_text("mine")
    root = write_folder(folder)
    return ["check_data", root, "--image-ids", 1, "--write", folder / "few"]


@case("paths", "generated shapes onto a file", "DIR/shapes")
def _shapes(folder: Path) -> list[object]:
    (folder / "shapes").write_text("mine")
    return ["make_shapes_dataset", "--output", folder / "shapes", "--num-train", 1, "--num-val", 1]
