"""Detections, and the annotations that judge them."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from studies.corpus.case import Command, Group
from studies.corpus.files import content, detections, draw, evaluate, text_of, write_folder

case = Group("detections")
_DONE = {"metrics.json"}


def _entry(**values: object) -> list[dict]:
    found = detections()
    found[1] |= values
    return found


def _add(title: str, found: object, says: str, *, truth: object = None, status: int = 2) -> None:
    """A case of ``evaluate.py``."""

    @case(title, says, status=status, left=_DONE if status == 0 else frozenset())
    def make(folder: Path) -> Command:
        return evaluate(folder, truth() if callable(truth) else truth, found)


def _crowded() -> dict:
    value = content()
    for number in range(100_000):
        box = [number % 30, number % 20, 1 + number % 9, 1 + number % 7]
        more = {"id": number, "bbox": box, "area": box[2] * box[3]}
        value["annotations"].append(value["annotations"][0] | more)
    objects = [a | {"id": i} for i, a in enumerate(value["annotations"])]
    for annotation in objects:
        del annotation["segmentation"]
    return value | {"annotations": objects}


def _named(name: str) -> dict:
    value = content()
    value["categories"][0]["name"] = name
    return value


@contextlib.contextmanager
def no_space(limit: int = 100):
    """A disk that takes no file of more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _box(*numbers: float) -> list[dict]:
    return _entry(bbox=list(numbers))


def _boxes() -> list[dict]:
    return [entry | {"segmentation": None} for entry in detections()]


_FAR = [[0, 0, 1e9, 0, 0, 9]]

_add("unfinished", text_of(detections())[:-9], "is not valid JSON")
_add("not UTF-8", b'[{"image_id": "\xe9"}]', "is not valid JSON")
_add("no list", {"annotations": detections()}, "its top level is a dict")
_add("none", [], "│ box │ 0.0 │", status=0)
_add("an entry without score", [{"image_id": 1, "category_id": 7}], "entry 0 lacks one of")
_add("of another dataset", _entry(image_id=99), "image_id 99, which is not among the 2 images")
_add("a score of NaN", _entry(score=float("nan")), "score nan; 0 to 1 is allowed")
_add("a score of 90", _entry(score=90), "score 90; 0 to 1 is allowed")
_add("a box of negative width", _box(4, 6, -10, 8), "not negative")
_add("a box with NaN", _box(4, 6, float("nan"), 8), "[4, 6, nan, 8]; four finite numbers")
_add("RLE of another size", _entry(segmentation={"size": [40, 30], "counts": [1200]}),
     "has size [40, 30], its image [30, 40]")  # fmt: skip
_add("compressed RLE that is cut", _entry(segmentation={"size": [30, 40], "counts": "0"}),
     "entry 1 is not one whole RLE")  # fmt: skip
_add("a polygon of 2 points", _entry(segmentation=[[4, 6, 14, 6]]), "less than three points")
_add("a polygon a billion pixels away", _entry(segmentation=_FAR), "beyond 10 times its image")
_add("masks of some only", _entry(segmentation=None), "entry 1 has no segmentation, 1 others have")
_add("judged by no annotation", [], "│ box │ - │", truth=content() | {"annotations": []}, status=0)
_add("judged by 100 000 annotations of one picture", _boxes(), "│ box │", truth=_crowded,
     status=0)  # fmt: skip
_add("a class name that is half a letter", detections(), "│ box │ 100.0 │", truth=_named("\ud83d"),
     status=0)  # fmt: skip


@case("the disk is full while the metrics are written", "metrics.json: cannot be written")
def full(folder: Path) -> Command:
    (folder / "metrics.json").write_text("{}\n")  # of an earlier evaluation
    return evaluate(folder, around=no_space())


@case("to be drawn: a box with NaN", "bbox [4, 6, nan, 8]; a finite number, and four")
def nan_drawn(folder: Path) -> Command:
    write_folder(folder)
    return draw(folder, _box(4, 6, float("nan"), 8))


@case("to be drawn: a box 1e300 pixels wide", "p.png: 2 images", status=0, left={"p.png"})
def far_drawn(folder: Path) -> Command:
    write_folder(folder)
    return draw(folder, _box(4, 6, 1e300, 8))


@case("to be drawn: compressed RLE that is cut", "is not one whole RLE of its image")
def rle_drawn(folder: Path) -> Command:
    write_folder(folder)
    return draw(folder, _entry(segmentation={"size": [30, 40], "counts": "0"}))
