"""A page of drawn examples of a dataset: a few images as they are learned, and a few of every kind
of finding, with the entry in question in red."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools.coco import COCO

from lambda_det.data.checking.split_content import SplitContent
from lambda_det.data.reading.findings import KINDS
from lambda_det.data.reading.values import is_finite, shown
from lambda_det.errors import printable, writing
from lambda_det.evaluation.drawing import choose_images
from lambda_det.evaluation.drawn_objects import (
    DrawnObject,
    draw_objects,
    image_of,
    index_to_draw,
    object_of,
)
from lambda_det.io import write_bytes

_IN_A_ROW = 3
_TILE, _GAP, _LINE = 400, 8, 26
_RED = (0, 0, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class ExamplePage:
    """The page; :meth:`add` draws the rows of a split."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, data: SplitContent) -> None:
        """Draw up to three images as they are learned, and up to three of every kind of finding.

        Raises:
            InputError: an image cannot be read, or has another size than the json says.
        """
        coco = index_to_draw(data.found, [*data.paths.values()])
        chosen = choose_images(coco, _IN_A_ROW)
        tiles = [_tile(coco, image_id, []) for image_id in chosen]
        self._rows.append(_row([f"{data.name}: objects as they are learned"], tiles))
        findings = data.found.summary.findings
        for kind, places in findings.places.items():
            of = KINDS[kind]
            lines = [
                f"{data.name}: {findings.counts[kind]} {of.what}",
                f"{of.treatment}: {of.done}",
                "; ".join(findings.examples[kind]),
            ]
            entries: dict[int | str, list[dict]] = {}
            for place in places:
                if place.image_id in coco.imgs and (
                    place.image_id in entries or len(entries) < _IN_A_ROW
                ):
                    marked = entries.setdefault(place.image_id, [])
                    if place.section == "annotations" and place.index is not None:
                        marked.append(data.content["annotations"][place.index])
            tiles = [_tile(coco, image_id, marked) for image_id, marked in entries.items()]
            self._rows.append(_row(lines, tiles))

    def write(self, path: str) -> None:
        """Write the page as a PNG file.

        Raises:
            InputError: it cannot be written.
        """
        width = max(row.shape[1] for row in self._rows)
        wide = [
            cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT,
                               value=(255, 255, 255))
            for row in self._rows
        ]  # fmt: skip
        with writing(f"--examples {path}"):
            write_bytes(cv2.imencode(".png", cv2.vconcat(wide))[1].tobytes(), path)


def _tile(coco: COCO, image_id: int | str, marked: Sequence[dict]) -> np.ndarray:
    image = image_of(coco, image_id)
    objects = [object_of(coco, entry, detected=False) for entry in coco.imgToAnns[image_id]]
    marks = [
        DrawnObject(box, None, f"annotation id {shown(entry.get('id'))}", _RED)
        for entry in marked
        if (box := _box_of(entry)) is not None
    ]
    return draw_objects(image, objects + marks, longest=_TILE)


def _box_of(entry: dict) -> tuple[float, float, float, float] | None:
    """Where an annotation lies as its json has it, also if nothing can be learned of it."""
    box = entry.get("bbox")
    if isinstance(box, list) and len(box) == 4 and all(map(is_finite, box)):
        return tuple(box)
    numbers = [entry.get("segmentation")]
    while any(isinstance(one, list) for one in numbers):
        numbers = [n for one in numbers for n in (one if isinstance(one, list) else [one])]
    if len(numbers) < 2 or not all(map(is_finite, numbers)):
        return None
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _row(lines: list[str], tiles: list[np.ndarray]) -> np.ndarray:
    """Lines of text above tiles, on white."""
    top = _GAP + len(lines) * _LINE
    height = top + max((tile.shape[0] for tile in tiles), default=0) + 2 * _GAP
    sheet = np.full((height, _IN_A_ROW * (_TILE + _GAP) + _GAP, 3), 255, np.uint8)
    for index, line in enumerate(lines):
        at = (_GAP, _GAP + (index + 1) * _LINE - 8)
        weight = 2 if index == 0 else 1
        cv2.putText(sheet, printable(line), at, _FONT, 0.5, (0, 0, 0), weight, cv2.LINE_AA)
    for index, tile in enumerate(tiles):
        left = _GAP + index * (_TILE + _GAP)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
