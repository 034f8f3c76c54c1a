"""The json of a training set."""

from __future__ import annotations

import json
from pathlib import Path

from studies.corpus.case import LEFT_BY_A_START, Command, Group
from studies.corpus.files import content, text_of, train_json

case = Group("json")
_BOTH = "objects: 1"


def _changed(section: str, index: int = 1, **values: object) -> dict:
    value = content()
    value[section][index] |= values
    return value


def _add(title: str, value: object, says: str, *, status: int = 2, left=frozenset()) -> None:
    """A case of a training whose json is ``value``."""

    @case(title, says, status=status, left=LEFT_BY_A_START if status == 0 else left)
    def make(folder: Path) -> Command:
        return train_json(folder, value() if callable(value) else value)


def _without(section: str, key: str) -> dict:
    value = content()
    del value[section][1][key]
    return value


def _crowded() -> dict:
    """Crowds of the picture are few, its objects too many."""
    value = content()
    objects = [value["annotations"][0] | {"id": number} for number in range(100_000)]
    return value | {"annotations": objects}


def _rle(height: int, width: int, counts: object) -> dict:
    return _changed("annotations", segmentation={"size": [height, width], "counts": counts})


_POINTS = {"segmentation": [[4, 6, 14, 6]]}

_add("unfinished", text_of(content())[:-90], "is not valid JSON")
_add("0 bytes", b"", "is not valid JSON")
_add("not UTF-8", text_of(content()).replace("seven", "fünf").encode("latin1"), "'utf-8' codec")
_add("100 000 brackets deep", "[" * 100_000, "is not valid JSON")
_add("a list", [content()], "its top level is a list")
_add("no list of images", {"annotations": [], "categories": []}, "it has no list 'images'")
_add("no images", content() | {"images": []}, "images is empty")
_add("no categories", content() | {"categories": []}, "categories is empty")
_add("no annotations", content() | {"annotations": []}, "has no annotations to train on")
_add("an image without height", _without("images", "height"), "images[1] has no height")
_add("an annotation without bbox", _without("annotations", "bbox"), "annotations[1] has no bbox")
_add("two images with one id", _changed("images", id=1), "image id 1 occurs twice")
_add("two annotations with one id", _changed("annotations", id=1), "annotation id 1 occurs twice")
_add("two categories with one id", _changed("categories", id=7), "category id 7 occurs twice")
_add("an id that is a list", _changed("annotations", image_id=[1]), "a value of a wrong type")
_add("image ids of two types", _changed("images", index=0, id="1"), "image ids are of several")
_add("unknown category", _changed("annotations", category_id=5), "category_id 5, which is not in")
_add("unknown image", _changed("annotations", image_id=5), "image_id 5, which is not in images")
_add("a number for a class name", _changed("categories", name=3), "has name 3; text is needed")
_add("an image of height 0", _changed("images", height=0), "height 0 and width 40")
_add("a file name with a line break and a terminal's escape",
     _changed("images", file_name="b\n\x1b[2Jc.png"), r"b\n\x1b[2Jc.png, listed in")  # fmt: skip
_add("a file name with byte 0", _changed("images", file_name="b\0.png"), "the name of a file")
_add("ids with gaps", _changed("annotations", id=10**12), _BOTH, status=0)
_add("a box outside of the picture", _changed("annotations", bbox=[100, 100, 9, 9]),
     "b.png read: 120 x 160 pixels, mean 130, objects: 0", status=0)  # fmt: skip
_add("a box across the border", _changed("annotations", bbox=[35, 25, 90, 90]), _BOTH, status=0)
_add("a box without width", _changed("annotations", bbox=[4, 6, 0, 8]), "objects: 0", status=0)
_add("a box of negative width", _changed("annotations", bbox=[14, 6, -10, 8]), "not negative")
_add("a box with NaN", _changed("annotations", bbox=[4, 6, float("nan"), 8]), "nan, 8]; four")
_add("a box with Infinity", _changed("annotations", bbox=[4, 6, 10, float("inf")]), "inf]; four")
_add("a box of three numbers", _changed("annotations", bbox=[4, 6, 10]), "[4, 6, 10]; four")
_add(
    "a box with a number of 400 digits", _changed("annotations", bbox=[4, 6, 10**400, 8]), "; four"
)
_add("an area of NaN", _changed("annotations", area=float("nan")), "area nan")
_add("iscrowd is text", _changed("annotations", iscrowd="0"), "'iscrowd' '0'; 0 or 1 is allowed")
_add("a polygon of 2 points", _changed("annotations", **_POINTS),
     "Filtered out 1 instances without valid segmentation", status=0)  # fmt: skip
_add("polygons of 2 points only", lambda: content() | {
        "annotations": [annotation | _POINTS for annotation in content()["annotations"]]
    }, "has no annotations to train on")  # fmt: skip
_add("a polygon with NaN", _changed("annotations", segmentation=[[4, 6, 14, 6, 14, float("nan")]]),
     "not pairs of finite numbers")  # fmt: skip
_add("a polygon with text", _changed("annotations", segmentation=[[4, 6, 14, 6, 14, "14"]]),
     "not pairs of finite numbers")  # fmt: skip
_add("a polygon far away", _changed("annotations", segmentation=[[0, 0, 1e6, 0, 0, 9]]),
     "reaches beyond 10 times its image")  # fmt: skip
_add("a segmentation that is text", _changed("annotations", segmentation="RLE"), "neither polygons")
_add("RLE of another size", _rle(40, 30, [600, 600]), "has size [40, 30], its image [30, 40]")
_add("RLE whose runs are too few", _rle(30, 40, [600]), "do not add up to 30 x 40 pixels")
_add("RLE without counts", _changed("annotations", segmentation={"size": [30, 40]}), "neither poly")
_add("compressed RLE that is cut", _rle(30, 40, "0"), "is not one whole RLE of its image")
_add("100 000 annotations in one picture", _crowded, "a.png has 100000 objects; more than 10000")
_add("an annotation with a mask, one without", _changed("annotations", segmentation=[]),
     "b.png has no segmentation, but MODEL.MASK_ON")  # fmt: skip
_add("keys that nobody knows", content() | {"info": None, "licenses": json.loads("[{}]")}, _BOTH,
     status=0)  # fmt: skip
